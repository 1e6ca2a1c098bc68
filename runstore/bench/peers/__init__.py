"""Task queues beside which runstore is measured: each a program of its own that knows nothing of runstore.

`python NAME.py worker` serves a task that does nothing; `python NAME.py measure COUNT` submits it so many times, one
after another, waits for each result as the queue's own documentation says, and prints the milliseconds as JSON. The
server is in `BENCH_REDIS_URL`; everything else is left at its default.
"""
