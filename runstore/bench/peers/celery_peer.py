"""Celery with Redis as broker and result backend."""

# mypy: ignore-errors
import json
import os
import sys
import time

from celery import Celery

URL = os.environ["BENCH_REDIS_URL"]
app = Celery("celery_peer", broker=URL, backend=URL)


@app.task
def nothing() -> str:
    """Do nothing."""
    return "done"


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        app.worker_main(["worker", "--loglevel", "error", "--concurrency", "1"])
    else:
        times = []
        for _ in range(int(sys.argv[2])):
            began = time.perf_counter()
            nothing.delay().get(timeout=30)
            times.append((time.perf_counter() - began) * 1000)
        sys.stdout.write(json.dumps(times))
