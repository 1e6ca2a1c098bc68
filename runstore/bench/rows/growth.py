"""Look-up by prefix and a page of a listing, as the store grows; the projector's pace at each size beside them."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from runstore.adapters.store import RedisStore
from runstore.bench.figures import Found, percentile
from runstore.bench.rows.projector import fold
from runstore.bench.stage import Stage, connected, event, new_id, stream
from runstore.core.ids import RunId
from runstore.ports import ListQuery

TITLE = "look-up by prefix, list page of 50: latency as the store grows"
_SIZES = (10_000, 100_000, 1_000_000)


async def measure(stage: Stage) -> Found:
    """Fill the store by the projector, and at each size ask what a gateway asks."""
    found = Found()
    latest: dict[str, dict[int, list[float]]] = {"prefix": {}, "list": {}}
    async with stage.store() as store, connected(stage.redis_url) as redis:
        held = 0
        for size in (stage.some(size) for size in _SIZES):
            pace, sample = await _grow(store, redis, size - held)
            held = size
            prefixes = [run_id[:8] for run_id in sample]
            for _ in range(stage.rounds):
                latest["prefix"].setdefault(size, []).append(await _p50_ms(store, prefixes, _prefix))
                latest["list"].setdefault(size, []).append(await _p50_ms(store, prefixes, _page))
            found.ours(f"projector while the store grew to {size:,}", "events/s", [pace])
    smallest, *_, largest = latest["prefix"]
    for name, what in (("prefix", "look-up by 8 digits"), ("list", "page of 50")):
        for size, values in latest[name].items():
            found.ours(f"{what}, {size:,} runs", "ms, p50", values)
        found.at_most(1.5, f"{what}: {largest:,} / {smallest:,} runs", latest[name][largest], latest[name][smallest])
    return found


async def _grow(store: RedisStore, redis: Any, runs: int) -> tuple[float, list[RunId]]:
    folded, took_s = 0, 0.0
    sample: list[RunId] = []
    while folded < runs:
        some = [new_id() for _ in range(min(20_000, runs - folded))]
        for begin in range(0, len(some), 500):
            pipe = redis.pipeline(transaction=False)
            for run_id in some[begin : begin + 500]:
                pipe.xadd(stream(run_id), {"event": event(run_id, "failed", error_message="no answer")})
            await pipe.execute()
        took_s += (await fold(store))[0]
        folded += len(some)
        sample = some[:200]
        for keys in store.meta.keys:  # the log is bounded in earnest as well
            await redis.xtrim(keys.events, maxlen=1000)
    return runs / took_s, sample


async def _p50_ms(store: RedisStore, prefixes: list[str], ask: Callable[[RedisStore, str], Awaitable[None]]) -> float:
    times = []
    for prefix in prefixes:
        began = time.perf_counter()
        await ask(store, prefix)
        times.append((time.perf_counter() - began) * 1000)
    return percentile(times, 50)


async def _prefix(store: RedisStore, digits: str) -> None:
    assert await store.runs.find(digits, None, 11)


async def _page(store: RedisStore, _: str) -> None:
    page = await store.runs.list_runs(ListQuery(), None, 50)
    assert len(page.runs) == 50
