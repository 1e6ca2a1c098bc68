"""Sustained runs a second: published, projected and pushed, two events a run."""

import asyncio
import time
from typing import Any

from runstore.bench import plain
from runstore.bench.figures import Found
from runstore.bench.load import Counter, listen
from runstore.bench.stage import PROJECT, Stage, connected, new_id, story, stream

TITLE = "sustained runs a second, published, projected and pushed (two events a run)"
_AT_ONCE = 250


async def measure(stage: Stage) -> Found:
    """Publish runs as fast as one client can, and wait for the last push, in turns with the plain program."""
    found, runs = Found(), stage.some(10_000, 1_000)
    ours: list[float] = []
    yardstick: list[float] = []
    cpu: dict[str, list[float]] = {"projector": [], "gateway": [], "plain reader": [], "plain door": []}
    async with stage.store() as store, connected(stage.redis_url) as redis:
        token = await stage.token(store)
        with (
            stage.projector() as projector,
            stage.gateway() as gateway,
            stage.process("reader", stage.redis_url, module="runstore.bench.plain") as reader,
            stage.process("door", stage.redis_url, module="runstore.bench.plain") as door,
        ):
            processes = {"projector": projector, "gateway": gateway, "plain reader": reader, "plain door": door}
            counter, other = Counter(), Counter()
            subscriber = await listen(gateway.url, "/v1/ws", counter, token=token)
            subscriber.send(b'{"type":"subscribe","id":"a","project_name":"%s"}' % PROJECT.encode())
            await counter.reach(1)
            await listen(door.url, "/ws", other)
            for turn in range(stage.rounds + 1):
                before = {name: process.cpu_s() for name, process in processes.items()}
                ours_s = await _round(redis, counter, runs, partitions=store.meta.partitions, pushes=runs)
                plain_s = await _round(redis, other, runs, partitions=0, pushes=2 * runs)
                if turn:
                    ours.append(runs / ours_s)
                    yardstick.append(runs / plain_s)
                    for name, process in processes.items():
                        cpu[name].append((process.cpu_s() - before[name]) / runs * 1e6)
    found.ours("published, projected, pushed", "runs/s", ours)
    found.yardstick("plain", "runs/s", yardstick)
    for name, values in cpu.items():
        (found.yardstick if name.startswith("plain") else found.ours)(f"CPU of the {name}", "µs a run", values)
    found.at_least(0.9, "runs a second: runstore / plain", ours, yardstick)
    return found


async def _round(redis: Any, counter: Counter, runs: int, *, partitions: int, pushes: int) -> float:
    stories = [(run_id, *story(run_id)) for run_id in (new_id() for _ in range(runs))]
    heard = asyncio.ensure_future(counter.reach(counter.frames + pushes))
    began = time.perf_counter()
    for begin in range(0, runs, _AT_ONCE):
        pipe = redis.pipeline(transaction=False)
        for run_id, *events in stories[begin : begin + _AT_ONCE]:
            for told in events:
                pipe.xadd(stream(run_id, partitions) if partitions else plain.EVENTS, {"event": told})
        await pipe.execute()
    await heard
    return time.perf_counter() - began
