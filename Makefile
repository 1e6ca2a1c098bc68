.PHONY: attack chaos hooks

# Every hook against its real framework, each in an environment of its own: `make hooks only="celery rq"`.
hooks:
	python3 tests/hooks/matrix.py $(only)

# Everything goes wrong at random while runs flow, then all is checked: `make chaos args="--seed 7 --seconds 600"`.
chaos:
	python3 -m tests.chaos $(args)

# Hostile input of every kind against real processes: `make attack inputs=20000 only="http frames"`. Needs the extra `attack`.
attack:
	python3 -m tests.attack $(if $(inputs),--inputs $(inputs)) $(if $(seed),--seed $(seed)) $(only)
