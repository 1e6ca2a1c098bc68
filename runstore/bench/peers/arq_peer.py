"""arq, whose results are polled for."""

# mypy: ignore-errors
import asyncio
import json
import os
import sys
import time
from typing import Any

from arq import create_pool, run_worker
from arq.connections import RedisSettings

SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def nothing(_: Any) -> str:
    """Do nothing."""
    return "done"


class WorkerSettings:
    """As arq wants them."""

    functions = (nothing,)
    redis_settings = SETTINGS


async def _measure(count: int) -> list[float]:
    pool = await create_pool(SETTINGS)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        job = await pool.enqueue_job("nothing")
        await job.result(timeout=30)
        times.append((time.perf_counter() - began) * 1000)
    return times


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.set_event_loop(asyncio.new_event_loop())
        run_worker(WorkerSettings)
    else:
        sys.stdout.write(json.dumps(asyncio.run(_measure(int(sys.argv[2])))))
