"""taskiq over a Redis list, whose results are polled for."""

# mypy: ignore-errors
import asyncio
import json
import os
import sys
import time

from taskiq.cli.worker.args import WorkerArgs
from taskiq.cli.worker.run import run_worker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

URL = os.environ["BENCH_REDIS_URL"]
broker = ListQueueBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))


@broker.task(task_name="nothing")
async def nothing() -> str:
    """Do nothing."""
    return "done"


async def _measure(count: int) -> list[float]:
    await broker.startup()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        task = await nothing.kiq()
        await task.wait_result(timeout=30)
        times.append((time.perf_counter() - began) * 1000)
    await broker.shutdown()
    return times


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        run_worker(WorkerArgs(broker="taskiq_peer:broker", modules=[], workers=1, log_level="ERROR"))
    else:
        sys.stdout.write(json.dumps(asyncio.run(_measure(int(sys.argv[2])))))
