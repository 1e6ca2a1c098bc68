"""The tail over a real store: places, waits for them, and what becomes of them when the store is lost."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.cursor import Place
from runstore.core.errors import CursorLost, StoreUnavailable
from runstore.core.event import EntryId, OutputRef
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.core.times import to_iso
from runstore.feed import Bodies, FeedTail, Push, Rollback
from runstore.projector import Projector
from runstore.wire.feed import decode_feed
from tests.waiting import happens

RUN = RunId("00000000-0000-4000-8000-000000000001")


class Ear:
    """A listener that keeps what it hears, and breaks where it is told to."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.statuses: list[Status] = []
        self.rollbacks: list[Rollback] = []
        self._is_broken = is_broken

    def hear(self, pushes: Sequence[Push]) -> None:
        if self._is_broken:
            raise RuntimeError("a listener's bug")
        self.statuses += [push.run.status for push in pushes]

    def rolled_back(self, rollback: Rollback) -> None:
        self.rollbacks.append(rollback)


@pytest.fixture
async def tail(real_store: RedisStore) -> AsyncIterator[FeedTail]:
    made = FeedTail(real_store.feed, real_store.outputs.view)
    await made.start()
    yield made
    await made.stop()


async def publish(store: RedisStore, status: str) -> EntryId:
    event = json.dumps({"run_id": RUN, "status": status, "project_name": "forecasts"})
    return await store.log.append(RUN, event.encode())


async def test_a_store_that_was_emptied_is_noticed_though_nothing_more_comes(
    real_store: RedisStore, tail: FeedTail
) -> None:
    ear = Ear()
    tail.hub.join(ear, run_ids=(RUN,))
    entry = await publish(real_store, "running")
    await Projector(real_store).turn(0)
    await tail.passed(tail.partition_of(RUN), entry, 30)

    await real_store.client.execute_command("FLUSHALL")
    await happens(lambda: bool(ear.rollbacks))

    assert len(ear.rollbacks) == 1
    assert len(ear.rollbacks[0].partitions) == tail.partitions


async def test_an_entry_is_passed_once_listeners_were_told_of_it(real_store: RedisStore, tail: FeedTail) -> None:
    ear = Ear()
    tail.hub.join(ear, run_ids=(RUN,))
    entry = await publish(real_store, "running")
    await Projector(real_store).turn(0)
    await tail.passed(tail.partition_of(RUN), entry, 5)

    assert ear.statuses == [Status.RUNNING]


async def test_a_listener_that_breaks_does_not_deafen_the_others(real_store: RedisStore, tail: FeedTail) -> None:
    broken, ear = Ear(is_broken=True), Ear()
    tail.hub.join(broken, run_ids=(RUN,))
    tail.hub.join(ear, run_ids=(RUN,))
    entry = await publish(real_store, "success")
    await Projector(real_store).turn(0)
    await tail.passed(tail.partition_of(RUN), entry, 5)

    assert ear.statuses == [Status.SUCCESS]


async def test_what_the_projector_does_not_reach_in_time_is_store_unavailable(
    real_store: RedisStore, tail: FeedTail
) -> None:
    entry = await publish(real_store, "running")
    place = Place(partition=tail.partition_of(RUN), epoch=tail.place(tail.partition_of(RUN)).epoch, entry=entry)

    with pytest.raises(StoreUnavailable):
        await tail.reached((place,), 0.05)


@pytest.mark.parametrize("change", [{"n": 7}, {"epoch": b"else"}, {"partition": 99}, {"partition": -1}, {"n": -1}])
async def test_a_place_that_is_not_there_is_lost(tail: FeedTail, change: dict[str, object]) -> None:
    with pytest.raises(CursorLost):
        await tail.reached((msgspec.structs.replace(tail.place(0), **change),))


async def test_a_rollback_fails_those_who_wait_and_tells_everybody(real_store: RedisStore, tail: FeedTail) -> None:
    ear, partition, forgotten = Ear(), tail.partition_of(RUN), []
    tail.on_rollback(forgotten.append)
    tail.hub.join(ear, run_ids=(RUN,))
    entry = await publish(real_store, "running")
    await Projector(real_store).turn(0)
    await tail.passed(partition, entry, 5)
    waiting = asyncio.create_task(tail.told(partition, 1000, 30))
    await asyncio.sleep(0)
    keys = real_store.meta.keys[partition]
    await real_store.client.delete(keys.feed, keys.cursor, keys.events)
    await tail.prove()

    with pytest.raises(StoreUnavailable):
        await waiting
    assert [rollback.partitions for rollback in ear.rollbacks] == [frozenset({partition})]
    assert forgotten == ear.rollbacks


async def rolled_back_by_one(store: RedisStore, partition: int) -> None:
    """Take the newest commit of a partition back, as a failover does, and go on."""
    keys = store.meta.keys[partition]
    rows = await store.client.xrevrange(keys.feed, count=2)
    before = decode_feed(rows[1][1][b"c"])
    await store.client.delete(keys.feed)
    await store.client.xadd(keys.feed, rows[1][1], id=rows[1][0])
    cursor = {"n": before.n, "nonce": before.nonce, "entry": str(EntryId(*before.entry))}
    await store.client.hset(keys.cursor, mapping=cursor)


async def test_a_rollback_between_two_reads_is_noticed_by_what_comes_after_it(
    real_store: RedisStore, tail: FeedTail
) -> None:
    ear, partition = Ear(), tail.partition_of(RUN)
    tail.hub.join(ear, run_ids=(RUN,))
    for status in ("pending", "running"):
        entry = await publish(real_store, status)
        await Projector(real_store).drain()
    await tail.passed(partition, entry, 5)
    await tail.stop()
    heard = FeedTail(real_store.feed, real_store.outputs.view)
    heard._places = [tail.place(p) for p in range(tail.partitions)]
    heard._awaited = tail._awaited
    heard._proven_at_s = math.inf
    heard.hub.join(ear, run_ids=(RUN,))

    await rolled_back_by_one(real_store, partition)
    await Projector(real_store).drain()
    await publish(real_store, "success")
    await Projector(real_store).drain()
    await heard.turn()

    assert [rollback.partitions for rollback in ear.rollbacks] == [frozenset({partition})]
    newest, _ = (await real_store.feed.tail())[partition]
    assert (heard.place(partition).n, heard.place(partition).nonce) == (newest.n, newest.nonce)


async def test_a_turn_that_fails_as_nobody_thought_of_ends_no_tail(
    real_store: RedisStore, tail: FeedTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise OverflowError("nobody thought of this")

    ear = Ear()
    tail.hub.join(ear, run_ids=(RUN,))
    with monkeypatch.context() as broken:
        broken.setattr(tail, "pushes", breaks)
        entry = await publish(real_store, "success")
        await Projector(real_store).drain()
        async with asyncio.timeout(10):
            while not tail.failures:  # noqa: ASYNC110 - it is counted, and nobody tells
                await asyncio.sleep(0)
    await tail.passed(tail.partition_of(RUN), entry, 10)

    assert ear.statuses == [Status.SUCCESS]


async def test_a_rollback_to_a_time_that_cannot_be_is_told_all_the_same(tail: FeedTail) -> None:
    ear = Ear()
    tail.hub.join(ear, run_ids=(RUN,))
    place = tail.place(0)
    tail._places[0] = msgspec.structs.replace(place, folded=EntryId(2**64 - 1, 1))

    tail._roll_back({0: place}, lost=True)

    assert to_iso(ear.rollbacks[0].since_us).startswith("9999")


async def test_stop_may_come_twice_and_ends_those_who_wait(tail: FeedTail) -> None:
    waiting = asyncio.create_task(tail.told(0, 1000, 30))
    await asyncio.sleep(0)
    await tail.stop()
    await tail.stop()
    await tail.wait()

    with pytest.raises(StoreUnavailable):
        await waiting


async def test_an_output_is_fetched_once_for_all_who_want_it_at_one_time() -> None:
    asked: list[RunId] = []

    async def fetch(run_id: RunId, ref: OutputRef) -> bytes:
        asked.append(run_id)
        await asyncio.sleep(0)
        return b'{"status":"success"}'

    run = Run(
        run_id=RUN,
        project_name="forecasts",
        status=Status.SUCCESS,
        created_ms=1,
        recorded_ms=1,
        output=OutputRef(token=b"t", output_bytes=20, chunks=0),
    )
    bodies = Bodies(fetch, 10**6)
    loaded = await asyncio.gather(*(bodies.make(run).load() for _ in range(100)))

    assert asked == [RUN]
    assert len(set(loaded)) == 1
