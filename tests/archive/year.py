"""`python -m tests.archive.year`: a year of runs, its times shrunken, inside a budget of memory.

A year of 100 runs a minute is 52.6 million runs. Here a day has 144 of them instead of 144,000, each event bears the
time that it would have had, and log, feed, partitions and budget are less as well. What does not shrink is what stays
of each run that left: it is measured here, and reckoned for the whole year.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from runstore.adapters.keeping import used_bytes
from runstore.adapters.store import RedisStore
from runstore.adapters.tombstones import filter_bytes
from runstore.archive.archive import Archive
from runstore.archive.archiver import Archiver
from runstore.archive.config import ArchiveConfig
from runstore.archive.reading import ArchivedStore
from runstore.core.ids import RunId
from runstore.engine import EngineConfig, EngineKind, start
from runstore.ports import ListQuery
from runstore.projector import Projector, ProjectorConfig
from runstore.wire.archive import DAY_MS
from tests.projector.builders import event_of

YEAR_RUNS = 365 * 24 * 60 * 100
FEW, PARTITIONS = 4, 16
PROJECTS = ("forecasts", "reports", "Nightly/checks")
_ROOM_BYTES = 8_000_000
_TOLD_EVERY_DAYS = 15
_MOST_S = 720.0
"""What is looked for at the end takes its time as well: all of it ends within 15 minutes."""
_KEPT = ProjectorConfig(batch_entries=4, log_retention=100, feed_retention=10, feed_retention_s=0, trim_every_commits=4)


class Year(msgspec.Struct, kw_only=True):
    """What a year came to. `bytes_a_run` is what stays in Redis of a run that left."""

    runs: int = 0
    moved: int = 0
    budget: int = 0
    most_used: int = 0
    over_days: int = 0
    bytes_a_run: float = 0.0
    missing: int = 0
    objects: int = 0
    days: int = 0
    ran_out: bool = False
    """Whether the time that it may take was over before the year was."""

    memory: list[int] = msgspec.field(default_factory=list)
    """What was used at the end of each day, in bytes."""


async def live(
    url: str, folder: Path, *, days: int, runs_a_day: int, seed: int = 1, most_s: float = float("inf")
) -> Year:
    """Live through a year, for so many seconds at most, and look for what was told at its end."""
    until_s = time.monotonic() + most_s
    chance, told = random.Random(seed), list[tuple[RunId, str]]()
    async with RedisStore.open(url, partitions=FEW) as store:
        year = Year(budget=await used_bytes(store.client) + _ROOM_BYTES)
        config = ArchiveConfig(url=str(folder), memory=str(year.budget), youngest_s=0, batch_runs=500)
        archive = Archive(config.objects(), config)
        projector = Projector(store, _KEPT, archive=archive)
        archiver, both = Archiver(store, archive), ArchivedStore(store, archive)
        begin_ms = round(time.time() * 1000) - days * DAY_MS
        for day in range(days):
            if time.monotonic() > until_s:
                year.ran_out = True
                break
            told += await _day(store, chance, begin_ms + day * DAY_MS, runs_a_day)
            await projector.drain()
            year.moved += (await archiver.turn()).moved
            used = await used_bytes(store.client)
            year.most_used = max(year.most_used, used)
            year.over_days += used > year.budget
            year.memory.append(used)
            year.days = day + 1
            if year.days % _TOLD_EVERY_DAYS == 0:
                print(_line(year, len(told)), flush=True)
        year.runs = len(told)
        year.bytes_a_run = await _stays(store) / max(1, year.moved)
        year.missing = await _missing(both, chance, told, begin_ms, max(1, year.days))
        year.objects = archive.written
    return year


def _line(year: Year, runs: int) -> str:
    used = year.memory[-1]
    return (
        f"day {year.days:3}: {used / 1e6:5.1f} MB of {year.budget / 1e6:.1f} MB ({used / year.budget:4.0%}), "
        f"{runs:6} runs told, {year.moved:6} of them moved"
    )


async def _day(store: RedisStore, chance: random.Random, begin_ms: int, runs: int) -> list[tuple[RunId, str]]:
    told = []
    pipe = store.client.pipeline(transaction=False)
    for number in range(runs):
        run_id, project = RunId(_uuid(chance)), chance.choice(PROJECTS)
        ms = begin_ms + number * (DAY_MS // runs)
        status, output = chance.choice(("success", "failed")), {"stdout": "x" * chance.randrange(600), "outputs": {}}
        events = store.meta.keys_of(run_id).events
        for seq, word, more in ((0, "running", {}), (1, status, {"output": output})):
            event = event_of(run_id, word, project_name=project, **more)
            pipe.execute_command("XADD", events, f"{ms + seq}-*", "event", event)
        told.append((run_id, project))
    await pipe.execute()
    return told


def _uuid(chance: random.Random) -> str:
    digits = f"{chance.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


async def _stays(store: RedisStore) -> int:
    """Count the bytes of what is kept of runs that left."""
    total = 0
    for keys in store.meta.keys:
        for key in (keys.archived, *(keys.sieve(layer) for layer in range(20))):
            total += int(await store.client.execute_command("MEMORY", "USAGE", key) or 0)
    return total


async def _missing(
    both: ArchivedStore, chance: random.Random, told: list[tuple[RunId, str]], begin_ms: int, days: int
) -> int:
    missing = 0
    for run_id, project in chance.sample(told, min(300, len(told))):
        [record] = await both.runs.get_many([run_id])
        record = record or await both.runs.get_archived(run_id)
        missing += record is None or record.run.project_name != project
        found = await both.runs.find(run_id.replace("-", "")[:10], frozenset([project]), 2)
        missing += run_id not in found
    for day in chance.sample(range(days), min(5, days)):
        upto_us = (begin_ms + (day + 1) * DAY_MS) * 1000
        query = ListQuery(created_before_us=upto_us, created_after_us=upto_us - DAY_MS * 1000 - 1)
        listed, position = list[RunId](), None
        while True:
            page = await both.runs.list_runs(query, position, 50)
            listed += [run.run_id for run in page.runs]
            position = page.next_position
            if position is None:
                break
        a_day = len(told) // days
        missing += listed != [run_id for run_id, _ in reversed(told[day * a_day : (day + 1) * a_day])]
    return missing


def main() -> int:
    """Print what a year came to; return 1 where it was not inside its budget or something is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--runs-a-day", type=int, default=144)
    parser.add_argument("--most-s", type=float, default=_MOST_S, help="seconds after which no other day begins")
    asked = parser.parse_args()
    with TemporaryDirectory(prefix="runstore-year-") as folder:
        place = Path(folder)
        with start(EngineConfig(data_dir=place / "data", kind=EngineKind.WHEEL)) as engine:
            began_s = time.monotonic()
            lived = live(
                engine.redis_url,
                place / "archive",
                days=asked.days,
                runs_a_day=asked.runs_a_day,
                most_s=asked.most_s,
            )
            year = asyncio.run(lived)
    if year.ran_out:
        print(f"the time was over after {year.days} of {asked.days} days: give --most-s, or fewer --runs-a-day")
    print(f"{year.runs} runs in {year.days} days ({time.monotonic() - began_s:.0f} s), {year.moved} moved")
    print(f"budget {year.budget / 1e6:.1f} MB, at most {year.most_used / 1e6:.1f} MB, over it on {year.over_days} days")
    whole = filter_bytes(YEAR_RUNS // PARTITIONS) * PARTITIONS
    print(f"{year.bytes_a_run:.1f} bytes stay of each run that left; of a whole year's {whole / 1e6:.0f} MB")
    print(f"{year.missing} of what was looked for is missing")
    return 1 if year.ran_out or year.over_days or year.missing or not year.moved else 0


if __name__ == "__main__":
    sys.exit(main())
