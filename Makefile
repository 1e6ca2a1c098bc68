.PHONY: hooks

# Every hook against its real framework, each in an environment of its own: `make hooks only="celery rq"`.
hooks:
	python3 tests/hooks/matrix.py $(only)
