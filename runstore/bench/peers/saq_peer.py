"""SAQ, which listens for results."""

# mypy: ignore-errors
import asyncio
import json
import os
import sys
import time
from typing import Any

from saq import Queue, Worker

URL = os.environ["BENCH_REDIS_URL"]


async def nothing(_: Any) -> str:
    """Do nothing."""
    return "done"


async def _work() -> None:
    queue = Queue.from_url(URL)
    await queue.connect()
    await Worker(queue, functions=[nothing]).start()


async def _measure(count: int) -> list[float]:
    queue = Queue.from_url(URL)
    await queue.connect()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await queue.apply("nothing", timeout=30)
        times.append((time.perf_counter() - began) * 1000)
    await queue.disconnect()
    return times


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(_work())
    else:
        sys.stdout.write(json.dumps(asyncio.run(_measure(int(sys.argv[2])))))
