"""The projector alone: events a second folded and committed by one process, beside a reader that proves nothing."""

import asyncio
import time
from typing import Any

from runstore.adapters.store import RedisStore
from runstore.bench import plain
from runstore.bench.figures import Found
from runstore.bench.stage import Stage, connected, new_id, story, stream
from runstore.projector import Projector, ProjectorConfig

TITLE = "projector alone, events a second folded and committed"
_AT_ONCE = 500


async def measure(stage: Stage) -> Found:
    """Fold a log of runs with two events each, in a store that holds few runs and then more."""
    found, runs = Found(), stage.some(20_000, 1_000)
    ours: list[float] = []
    ours_cpu: list[float] = []
    yardstick: list[float] = []
    for _ in range(stage.rounds):
        async with stage.store() as store, connected(stage.redis_url) as redis:
            await fill(redis, runs, store.meta.partitions)
            wall_s, cpu_s = await fold(store)
            ours.append(2 * runs / wall_s)
            ours_cpu.append(cpu_s / (2 * runs) * 1e6)
            await fill(redis, runs, 0)
            began = time.perf_counter()
            await plain.read(redis, until=2 * runs)
            yardstick.append(2 * runs / (time.perf_counter() - began))
    found.ours("folded and committed", "events/s", ours)
    found.ours("CPU of the projector's process", "µs an event", ours_cpu)
    found.yardstick("plain: HSET and XADD in a pipeline", "events/s", yardstick)
    found.at_least(35_000, "events a second", ours)
    found.at_least(1.0, "events a second: projector / plain", ours, yardstick)
    return found


async def fill(redis: Any, runs: int, partitions: int) -> None:
    """Publish so many runs, hundreds of them at a time; partitions 0: for the plain reader."""
    stories = [(run_id, *story(run_id)) for run_id in (new_id() for _ in range(runs))]
    for begin in range(0, runs, _AT_ONCE):
        pipe = redis.pipeline(transaction=False)
        for place in (1, 2):
            for told in stories[begin : begin + _AT_ONCE]:
                pipe.xadd(stream(told[0], partitions) if partitions else plain.EVENTS, {"event": told[place]})
        await pipe.execute()


async def fold(store: RedisStore) -> tuple[float, float]:
    """Fold all there is as a service does; return how long it took, and this process's CPU time, in seconds."""
    left = await _events(store)
    projector = Projector(store, ProjectorConfig(block_ms=10))
    wall, cpu = time.perf_counter(), time.process_time()
    async with projector:
        while projector.entries_folded < left:  # noqa: ASYNC110 - it tells nobody how far it is
            await asyncio.sleep(0.001)
        return time.perf_counter() - wall, time.process_time() - cpu


async def _events(store: RedisStore) -> int:
    """Count the events that no projector has folded."""
    pipe, left = store.client.pipeline(transaction=False), 0
    for keys in store.meta.keys:
        pipe.execute_command("HGET", keys.cursor, "entry")
    for keys, entry in zip(store.meta.keys, await pipe.execute(), strict=True):
        left += len(await store.client.execute_command("XRANGE", keys.events, b"(%s" % (entry or b"0-0"), "+"))
    return left
