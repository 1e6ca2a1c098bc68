"""What each durability costs: `python -m tests.bench.durability` prints the table of docs/performance.md.

One primary and one replica on this machine, their append-only files on its disk. The levels take turns, so that what
else the machine does meets all alike; each figure is the median of the rounds.
"""

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.feed import FeedTail, Push, Rollback
from runstore.projector import Projector
from tests.projector.builders import event_of, run_id_of
from tests.topology.servers import Pair, pair, programs

BATCH = 256


class Level(NamedTuple):
    """A durability, and how the server forces its writes onto the disk."""

    durability: str
    fsync: str

    @property
    def name(self) -> str:
        return f"`{self.durability}`, `appendfsync {self.fsync}`"


class Figures(NamedTuple):
    """Of one round. Units: milliseconds, events a second."""

    acknowledged_ms: float
    told_ms: float
    told_p99_ms: float
    events_a_second: float


LEVELS = (
    Level("acknowledged", "everysec"),
    Level("acknowledged", "always"),
    Level("replicated", "everysec"),
    Level("fsynced", "always"),
)


class Ear:
    """Hears how many changes were told."""

    def __init__(self) -> None:
        self.heard = 0
        self._news = asyncio.Event()

    def hear(self, pushes: Sequence[Push]) -> None:
        self.heard += len(pushes)
        self._news.set()

    def rolled_back(self, rollback: Rollback) -> None:
        raise AssertionError("nothing was to be lost")

    async def until(self, count: int) -> None:
        while self.heard < count:
            self._news.clear()
            await self._news.wait()


async def measure(servers: Pair, level: Level, *, singles: int, many: int) -> Figures:
    """Take one round at one level."""
    servers.primary.ask("CONFIG", "SET", "appendfsync", level.fsync)
    servers.primary.ask("FLUSHALL")
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(RedisStore.open(servers.primary.url, durability=level.durability))
            for _ in range(3)
        ]
        log = stores[0].log
        await stack.enter_async_context(Projector(stores[1]))
        tail, ear = FeedTail(stores[2].feed, stores[2].outputs.view), Ear()
        tail.hub.join(ear, project_name="forecasts")
        await tail.start()
        stack.push_async_callback(tail.stop)
        acknowledged, told = [], []
        for number in range(singles + 10):
            run_id = run_id_of(number)
            began = time.perf_counter()
            await log.append(run_id, event_of(run_id, "success"))
            acknowledged.append(time.perf_counter() - began)
            await ear.until(number + 1)
            told.append(time.perf_counter() - began)
        before = ear.heard
        batches = _batches(many)
        began = time.perf_counter()
        for batch in batches:
            await log.append_many(batch)
        await ear.until(before + many)
        took_s = time.perf_counter() - began
    kept = sorted(told[10:])
    return Figures(
        1000 * median(acknowledged[10:]), 1000 * median(kept), 1000 * kept[int(0.99 * len(kept))], many / took_s
    )


def _batches(many: int) -> list[list[tuple[RunId, bytes]]]:
    runs = [run_id_of(1_000_000 + number) for number in range(many)]
    events = [(run_id, event_of(run_id, "success")) for run_id in runs]
    return [events[begin : begin + BATCH] for begin in range(0, many, BATCH)]


def table(rounds: dict[Level, list[Figures]]) -> str:
    """Write the medians, each beside its ratio to the first level's."""
    medians = {level: Figures(*map(median, zip(*found, strict=True))) for level, found in rounds.items()}
    first = medians[LEVELS[0]]
    lines = ["| level | acknowledged, p50 | told, p50 | told, p99 | events a second |", "|---|---|---|---|---|"]
    for level, found in medians.items():
        times = [f"{own:.2f} ms ({own / base:.1f} ×)" for own, base in zip(found[:3], first[:3], strict=True)]
        rate = f"{found.events_a_second:,.0f} ({found.events_a_second / first.events_a_second:.2f} ×)"
        lines.append(f"| {' | '.join([level.name, *times, rate])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--many", type=int, default=4096)
    parser.add_argument("--program", choices=sorted(programs()), default="wheel")
    told = parser.parse_args()
    rounds: dict[Level, list[Figures]] = {level: [] for level in LEVELS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(pair(programs()[told.program], folder, appendonly="yes"))
        version = servers.primary.ask("INFO", "server")
        for _ in range(told.rounds):
            for level in LEVELS:
                rounds[level].append(asyncio.run(measure(servers, level, singles=told.singles, many=told.many)))
    name = "valkey" if "valkey_version" in version else "redis"
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{name.title()} {version[f'{name}_version']}, one replica, {machine}; medians of {told.rounds} rounds\n")
    print(table(rounds))


if __name__ == "__main__":
    main()
