"""RQ; its worker forks for each job, as by default."""

# mypy: ignore-errors
import json
import os
import sys
import time

from redis import Redis
from rq import Queue, Worker

connection = Redis.from_url(os.environ["BENCH_REDIS_URL"])
queue = Queue("bench", connection=connection)


def nothing() -> str:
    """Do nothing."""
    return "done"


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        Worker([queue], connection=connection).work(logging_level="ERROR")
    else:
        from rq_peer import nothing as task

        times = []
        for _ in range(int(sys.argv[2])):
            began = time.perf_counter()
            queue.enqueue(task).latest_result(timeout=30)
            times.append((time.perf_counter() - began) * 1000)
        sys.stdout.write(json.dumps(times))
