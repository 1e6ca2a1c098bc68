"""What one `publish()` costs a worker, beside the plain `xadd` of the same event."""

import time
from collections.abc import Awaitable, Callable

from runstore.bench.figures import Found
from runstore.bench.stage import Stage, connected, event, new_id
from runstore.publish import AsyncPublisher

TITLE = "publish, CPU of one async `publish()` in the worker"


async def measure(stage: Stage) -> Found:
    """Publish one event after another, in turns with the yardstick; only this process's CPU time counts."""
    found, each = Found(), stage.some(4_000, 200)
    ours: list[float] = []
    yardstick: list[float] = []
    async with (
        stage.store(),
        AsyncPublisher(stage.redis_url, project="forecasts") as publisher,
        connected(stage.redis_url) as redis,
    ):
        stream = "runstore:{0}:bench"

        async def publish() -> None:
            await publisher.publish(new_id(), "failed", error_message="no answer")

        async def xadd() -> None:
            await redis.xadd(stream, {"event": event(new_id(), "failed", error_message="no answer")})

        for _ in range(stage.rounds + 1):
            ours.append(await _cpu_us(publish, each))
            yardstick.append(await _cpu_us(xadd, each))
    ours, yardstick = ours[1:], yardstick[1:]  # the first round is for what is imported and connected once
    found.ours("publish()", "µs CPU", ours)
    found.yardstick("redis-py xadd", "µs CPU", yardstick)
    found.at_most(1.5, "CPU: publish() / xadd", ours, yardstick)
    return found


async def _cpu_us(call: Callable[[], Awaitable[None]], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        await call()
    return (time.process_time() - began) / times * 1e6
