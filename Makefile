.PHONY: chaos hooks

# Every hook against its real framework, each in an environment of its own: `make hooks only="celery rq"`.
hooks:
	python3 tests/hooks/matrix.py $(only)

# Everything goes wrong at random while runs flow, then all is checked: `make chaos args="--seed 7 --seconds 600"`.
chaos:
	python3 -m tests.chaos $(args)
