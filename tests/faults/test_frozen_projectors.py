"""Projectors' processes frozen while others take over, and thawed in the midst of them: there is one fold."""

import asyncio
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.event import Event, RunRequest
from runstore.core.ids import RunId
from runstore.core.status import Status
from runstore.projector import ProjectorConfig
from runstore.rebuild import Rebuild
from runstore.wire.event import encode_event
from tests.cli.processes import PATIENT
from tests.faults.site import Site, site

pytestmark = [pytest.mark.slow, PATIENT]
FREEZES, A_BURST = 6, 8
STEPS = (Status.PENDING, Status.RUNNING, Status.SUCCESS, Status.FAILED)
LEASE_S = ProjectorConfig().lease_ms / 1000


class Load:
    """Runs told without a pause, each to its end and one event beyond it, which is to be ignored."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.runs: list[RunId] = []
        self.goes_on = True

    async def tell(self) -> None:
        while self.goes_on:
            runs = [RunId(str(uuid4())) for _ in range(A_BURST)]
            for status in STEPS:
                await asyncio.gather(*(self._tell(run_id, status) for run_id in runs))
            self.runs += runs

    async def _tell(self, run_id: RunId, status: Status) -> None:
        event = Event(
            run_id=run_id,
            status=status,
            project_name="mine",
            numbered=status is Status.PENDING,
            request=RunRequest(inputs=msgspec.Raw(b"{}"), fingerprint="f") if status is Status.PENDING else None,
        )
        await self._store.log.append(run_id, encode_event(event))


async def folded(store: RedisStore, within_s: float = 120) -> None:
    """Wait until every event was folded."""
    ends = [await store.client.xrevrange(keys.events, count=1) for keys in store.meta.keys]
    async with asyncio.timeout(within_s):
        for keys, end in zip(store.meta.keys, ends, strict=True):
            while end and await store.client.hget(keys.cursor, "entry") != end[0][0]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def check_one_fold(store: RedisStore, runs: list[RunId]) -> None:
    """Check that the store is what one fold of its log makes of it, and that the feed told each step once."""
    report = await Rebuild(store).run()
    assert (report.differences, report.compared, report.moving) == ([], len(runs), 0)
    records = [record for record in await store.runs.get_many(runs) if record is not None]
    assert {record.run.status for record in records} == {Status.SUCCESS}
    assert sorted(record.run.run_number or 0 for record in records) == list(range(1, len(runs) + 1))
    told: Counter[tuple[RunId, Status, bool]] = Counter()
    for partition in range(store.meta.partitions):
        entries = await store.feed.read(partition, 0, 2**31)
        assert [entry.n for entry in entries] == list(range(1, len(entries) + 1))
        told.update(
            (change.run.run_id, change.item.status, bool(change.item.ignored))
            for entry in entries
            for change in entry.changes
            if change.item is not None
        )
    assert set(told) == {(run_id, status, status is Status.FAILED) for run_id in runs for status in STEPS}
    assert set(told.values()) == {1}


@pytest.mark.parametrize("count", [2, 3])
async def test_projectors_that_are_frozen_and_thawed_in_turn_make_one_fold(tmp_path: Path, count: int) -> None:
    dice = random.Random(count)
    async with AsyncExitStack() as stack:
        running: Site = await stack.enter_async_context(site(tmp_path))
        projectors = [await asyncio.to_thread(running.start, "projector") for _ in range(count)]
        store = await stack.enter_async_context(RedisStore.open(running.redis_url))
        load = Load(store)
        telling = asyncio.create_task(load.tell())
        for _ in range(FREEZES):
            frozen = dice.choice(projectors).process
            await asyncio.sleep(dice.uniform(0.1, 0.5))  # somewhere in the midst of its work
            frozen.send_signal(signal.SIGSTOP)
            # the others take its partitions over: by then it holds no lease, and does not know
            await asyncio.sleep(LEASE_S * dice.uniform(1.1, 1.6))
            frozen.send_signal(signal.SIGCONT)
        load.goes_on = False
        await telling
        await folded(store)

        await check_one_fold(store, load.runs)
        assert running.all_live


async def test_a_projector_that_is_thawed_beside_the_one_that_took_over_changes_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        running: Site = await stack.enter_async_context(site(tmp_path))
        store = await stack.enter_async_context(RedisStore.open(running.redis_url))
        first = await asyncio.to_thread(running.start, "projector")
        load = Load(store)
        telling = asyncio.create_task(load.tell())
        await asyncio.sleep(1)  # it is at work
        first.process.send_signal(signal.SIGSTOP)
        told = len(load.runs)
        await asyncio.to_thread(running.start, "projector")
        async with asyncio.timeout(60):
            while len(load.runs) < told + 10 * A_BURST:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        load.goes_on = False
        await telling
        await folded(store)

        first.process.send_signal(signal.SIGCONT)
        load.goes_on = True
        telling = asyncio.create_task(load.tell())
        await asyncio.sleep(2)  # both are
        load.goes_on = False
        await telling
        await folded(store)

        await check_one_fold(store, load.runs)
        assert running.all_live
