"""Rebuild tells how a store differs from its log, and puts right what it is told to, while projectors go on."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.cursor import Standing, judge
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, to_bytes
from runstore.core.run import HistoryItem
from runstore.core.status import Status
from runstore.engine import EngineConfig, start
from runstore.feed import FeedTail
from runstore.projector import Projector, ProjectorConfig
from runstore.rebuild import Rebuild, Report
from tests.ledger import check, dump_of
from tests.projector.builders import run_id_of, tell, tell_at
from tests.projector.stories import BIG
from tests.waiting import happens

ONE, TWO, THREE = (run_id_of(number) for number in (1, 2, 3))
Damage = Callable[[RedisStore], Awaitable[Any]]


async def told(store: RedisStore) -> None:
    """Tell of three runs and fold it."""
    for run_id in (ONE, TWO, THREE):
        await tell(store, run_id, "pending", numbered=True, tags=["x"])
        await tell(store, run_id, "running", attempt=1)
    await tell(store, ONE, "success", output=BIG)
    await tell(store, TWO, "failed", error_message="no", output={"stdout": "half"})
    await tell(store, TWO, "success")
    await tell(store, TWO, "junk")
    await Projector(store).drain()


def whats(report: Report) -> set[tuple[RunId, str]]:
    return {(found.run_id, found.what) for found in report.differences}


def key(store: RedisStore, run_id: RunId) -> bytes:
    return store.meta.keys_of(run_id).run(to_bytes(run_id))


DAMAGE: dict[str, tuple[Damage, str]] = {
    "a status": (lambda s: s.client.hset(key(s, TWO), "s", "2"), "fields differ"),
    "a hash": (lambda s: s.client.unlink(key(s, TWO)), "the run is missing"),
    "a key of another type": (lambda s: s.client.set(key(s, TWO), "x"), "the run is missing"),
    "a record that cannot be read": (lambda s: s.client.hset(key(s, TWO), "s", "99"), "the run is missing"),
    "a history": (lambda s: s.client.hdel(key(s, TWO), "1"), "the history differs"),
}


async def test_a_store_that_is_what_its_log_tells_shows_no_difference(real_store: RedisStore) -> None:
    await told(real_store)

    report = await Rebuild(real_store).run()

    assert (report.differences, report.entries, report.compared, report.older) == ([], 10, 3, 0)


@pytest.mark.parametrize("name", DAMAGE)
async def test_what_was_damaged_is_told_and_put_right(redis_url: str, name: str) -> None:
    damage, what = DAMAGE[name]
    async with RedisStore.open(redis_url, partitions=2) as store:
        await told(store)
        whole = {key: value for key, value in dump_of(redis_url).values.items() if b"}:r:" in key}
        await damage(store)

        before = await Rebuild(store).run()
        swapped = await Rebuild(store).run(swap=True)
        after = await Rebuild(store).run()

        assert (TWO, what) in whats(before)
        assert whats(swapped) == whats(before)
        assert (swapped.swapped, after.differences) == (1, [])
        await tell(store, run_id_of(4), "success", numbered=True)
        await Projector(store).drain()
        # the feed tells less than the log, for a swap is told by no change
        assert [said for said in check(dump_of(redis_url), 2) if "commit" not in said] == []
        again = {key: value for key, value in dump_of(redis_url).values.items() if key in whole}
        assert {k: {n: x for n, x in v.items() if n != b"v"} for k, v in again.items()} == {
            k: {n: x for n, x in v.items() if n != b"v"} for k, v in whole.items()
        }


async def test_an_output_that_came_in_the_log_is_written_again(real_store: RedisStore) -> None:
    await told(real_store)
    [record] = await real_store.runs.get_many([ONE])
    assert record is not None and record.run.output is not None
    view = await real_store.outputs.view(ONE, record.run.output)
    for name in await real_store.client.keys("*:o:*"):
        await real_store.client.unlink(name)
    await real_store.client.unlink(key(real_store, ONE))

    await Rebuild(real_store).run(swap=True)

    [again] = await real_store.runs.get_many([ONE])
    assert again is not None and again.run == record.run
    assert await real_store.outputs.view(ONE, record.run.output) == view
    assert all([await real_store.client.ttl(name) == -1 for name in await real_store.client.keys("*:o:*")])


async def test_a_run_whose_first_events_are_gone_is_left_as_it_is(real_store: RedisStore) -> None:
    await told(real_store)
    events = real_store.meta.keys_of(TWO).events
    [(first, _), *_] = [row for row in await real_store.client.xrange(events) if TWO.encode() in row[1][b"event"]]
    await real_store.client.xdel(events, first)
    await real_store.client.hset(key(real_store, TWO), "x", "another reason")

    report = await Rebuild(real_store).run(swap=True)

    assert (report.older, report.swapped, report.differences) == (1, 0, [])
    assert await real_store.client.hget(key(real_store, TWO), "x") == b"another reason"


class SetsBack:
    """An archive that has nothing; while it is asked the store loses its newest commit, or is another's already."""

    def __init__(self, store: RedisStore, fields: dict[str, bytes | int]) -> None:
        self._store = store
        self._fields = fields

    async def get_archived(self, run_id: RunId) -> None:
        await self._store.client.hset(self._store.meta.keys_of(run_id).cursor, mapping=self._fields)

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        raise AssertionError("it has no run")

    async def is_erased(self, run_id: RunId) -> bool:
        return False


@pytest.mark.parametrize("fields", [{"n": 0}, {"epoch": b"another epoch"}], ids=["rolled back", "in a new epoch"])
async def test_a_store_that_is_set_back_while_it_is_compared_is_not_told_to_differ(
    real_store: RedisStore, fields: dict[str, bytes | int]
) -> None:
    await told(real_store)
    await real_store.client.unlink(key(real_store, TWO))

    with pytest.raises(StoreUnavailable, match="set back"):
        await Rebuild(real_store, SetsBack(real_store, fields)).run()


async def test_a_run_that_no_event_tells_of_is_shown_and_left(real_store: RedisStore) -> None:
    keys = real_store.meta.keys_of(ONE)
    await tell_at(real_store, ONE, 1_700_000_000_000, 0, "running")
    await tell_at(real_store, ONE, 1_700_000_000_002, 0, "success")
    stray = run_id_of(5, partition=keys.partition)
    await tell_at(real_store, stray, 1_700_000_000_003, 0, "success")
    await Projector(real_store).drain()
    await tell_at(real_store, ONE, 1_700_000_000_004, 0, "failed")
    await Projector(real_store).drain()
    await real_store.client.xdel(keys.events, "1700000000003-0")

    report = await Rebuild(real_store).run(swap=True)

    assert whats(report) == {(stray, "the run is in no event")}
    assert report.put_right == 0


async def test_who_follows_the_feed_is_told_to_look_again_after_a_swap(real_store: RedisStore) -> None:
    await told(real_store)
    tail = FeedTail(real_store.feed, real_store.outputs.view)
    await tail.start()
    try:
        place = tail.place(tail.partition_of(TWO))
        told_of: list[Any] = []
        tail.on_rollback(told_of.append)
        await real_store.client.hset(key(real_store, TWO), "s", "2")
        await Rebuild(real_store).run(swap=True)
        await happens(lambda: bool(told_of))

        assert judge(place, await real_store.feed.sight(place)) is Standing.LOST
    finally:
        await tail.stop()


@pytest.mark.parametrize("partitions", [1, 4])
async def test_runs_that_go_on_are_neither_told_as_different_nor_set_back(redis_url: str, partitions: int) -> None:
    async with RedisStore.open(redis_url, partitions=partitions) as store:
        config = ProjectorConfig(batch_entries=2, block_ms=20)
        async with RedisStore.open(redis_url) as own, Projector(own, config):

            async def publish() -> None:
                for number in range(60):
                    for status in ("pending", "running", "success"):
                        await tell(store, run_id_of(number), status, numbered=True)

            publishing = asyncio.create_task(publish())
            while not publishing.done():
                report = await Rebuild(store).run(swap=True)
                assert report.differences == []
            await publishing
        await Projector(store).drain()

        assert check(dump_of(redis_url), partitions) == []
        [record] = await store.runs.get_many([run_id_of(59)])
        assert record is not None and record.run.status is Status.SUCCESS


async def test_a_backup_that_is_restored_serves_on_and_later_places_are_known_as_lost(tmp_path: Path) -> None:
    with start(EngineConfig(data_dir=tmp_path / "live")) as engine:
        async with RedisStore.open(engine.redis_url) as store:
            await told(store)
    copytree(tmp_path / "live", tmp_path / "backup")
    with start(EngineConfig(data_dir=tmp_path / "live")) as engine:
        async with RedisStore.open(engine.redis_url) as store:
            await tell(store, run_id_of(7), "success", numbered=True)
            await Projector(store).drain()
            later = [place for place, _ in await store.feed.tail() if place.n]

    with start(EngineConfig(data_dir=tmp_path / "backup")) as engine:
        async with RedisStore.open(engine.redis_url) as store:
            await tell(store, run_id_of(8), "success", numbered=True)
            await Projector(store).drain()
            report = await Rebuild(store).run()
            standings = {judge(place, await store.feed.sight(place)) for place in later}
            records = await store.runs.get_many([ONE, TWO, THREE, run_id_of(7), run_id_of(8)])

    assert (report.differences, report.compared) == ([], 4)
    assert Standing.LOST in standings
    assert sorted(record.run.run_number or 0 for record in records if record is not None) == [1, 2, 3, 4]
    assert records[3] is None
