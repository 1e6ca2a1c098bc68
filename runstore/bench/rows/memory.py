"""Redis memory of an ended run without output, its indexes and history included."""

import time
from typing import Any

from runstore.bench.figures import Found
from runstore.bench.stage import SHA, Stage, connected, event, new_id, stream
from runstore.core.times import to_iso
from runstore.projector import Projector

TITLE = "Redis memory per ended run without output, indexes included, default server settings"


async def measure(stage: Stage) -> Found:
    """Fold runs of two events and see what the server holds more, once the log and the feed are trimmed away."""
    found, runs = Found(), stage.some(40_000, 4_000)
    async with stage.store() as store, connected(stage.redis_url) as redis:
        await _runs(redis, 500, store.meta.partitions)
        await Projector(store).drain()
        before = await _held(redis)
        await _runs(redis, runs, store.meta.partitions)
        await Projector(store).drain()
        each = (await _held(redis) - before) / runs
    found.ours(f"of {runs} runs, on {stage.server}", "bytes a run", [each])
    found.at_most(360 if "Valkey 9" in stage.server else 420, "bytes a run", [each])
    return found


async def _runs(redis: Any, runs: int, partitions: int) -> None:
    for begin in range(0, runs, 500):
        pipe = redis.pipeline(transaction=False)
        for run_id in [new_id() for _ in range(min(500, runs - begin))]:
            now_us = time.time_ns() // 1000
            begun = event(run_id, "running", at=to_iso(now_us), commit_sha=SHA)
            ended = event(run_id, "success", at=to_iso(now_us + 1_420_000))
            for told in (begun, ended):
                pipe.xadd(stream(run_id, partitions), {"event": told})
        await pipe.execute()


async def _held(redis: Any) -> int:
    """Read the memory in use, with the logs and feeds emptied: they are bounded, whatever the number of runs."""
    async for key in redis.scan_iter(match="runstore:{*}:*", count=1000, _type="STREAM"):
        if key.endswith((b":events", b":feed")):
            await redis.xtrim(key, maxlen=1, approximate=False)
    return int((await redis.info("memory"))["used_memory"])
