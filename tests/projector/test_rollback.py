"""A server that comes back with its newest writes lost, under a projector that did not notice."""

import asyncio

import pytest

from runstore.adapters.log import parse_entry_id
from runstore.adapters.store import RedisStore
from runstore.core.cursor import Standing, judge
from runstore.core.errors import StoreUnavailable
from runstore.core.status import Status
from runstore.projection.partition import PartitionProjector
from runstore.projector import Projector
from tests.projector.builders import run_id_of, tell
from tests.projector.state import stepped
from tests.projector.test_projector import status_of

ONE, TWO, THREE, FOUR = (run_id_of(number, partition=0, partitions=1) for number in (1, 2, 3, 4))


@pytest.fixture
async def lone_store(redis_url: str):
    """A real store of one partition."""
    async with RedisStore.open(redis_url, partitions=1) as store:
        yield store


async def dumped(store: RedisStore) -> dict[bytes, bytes]:
    return {key: await store.client.dump(key) for key in await store.client.keys("*")}


async def rolled_back(store: RedisStore, dump: dict[bytes, bytes]) -> None:
    await store.client.flushall()
    for key, value in dump.items():
        await store.client.restore(key, 0, value)


async def test_numbers_go_on_after_a_rollback_that_the_projector_did_not_notice(lone_store: RedisStore) -> None:
    projector = Projector(lone_store)
    await tell(lone_store, ONE, "pending", numbered=True)
    await projector.drain()
    before = await dumped(lone_store)
    for run_id in (TWO, THREE):
        await tell(lone_store, run_id, "pending", numbered=True)
        await projector.drain()
    place, _ = (await lone_store.feed.tail())[0]

    await rolled_back(lone_store, before)
    await tell(lone_store, FOUR, "pending", numbered=True)
    await projector.drain()

    records = await lone_store.runs.get_many([ONE, TWO, THREE, FOUR])
    assert [record and record.run.run_number for record in records] == [1, None, None, 2]
    assert projector.turns_failed == 0
    assert judge(place, await lone_store.feed.sight(place)) is Standing.LOST


async def test_an_event_that_the_store_lost_after_it_was_read_is_not_folded(lone_store: RedisStore) -> None:
    projector = PartitionProjector(lone_store, 0, heads=100)
    await tell(lone_store, ONE, "running")
    await projector.load()
    before = await dumped(lone_store)
    await tell(lone_store, TWO, "running")
    rows = await _rows(lone_store)

    await rolled_back(lone_store, before)

    assert not await projector.project(rows)
    await Projector(lone_store).drain()
    assert [record and record.run.status for record in await lone_store.runs.get_many([ONE, TWO])] == ["running", None]


async def test_what_is_known_of_runs_is_not_kept_beyond_a_drop_while_a_commit_is_under_way(redis_url: str) -> None:
    async with RedisStore.open(redis_url, partitions=1) as own, RedisStore.open(redis_url) as other:
        ours = PartitionProjector(own, 0, heads=100)

        async def drops() -> None:
            ours.drop()

        await tell(other, ONE, "running")
        await ours.load()
        rows = await _rows(other)
        stepped(own, drops)
        await ours.project(rows)
        stepped(own, _nothing)
        await tell(other, ONE, "success")
        await Projector(other).drain()
        await tell(other, ONE, "failed")
        await ours.load()
        await ours.project((await _rows(other))[2:])

        assert await status_of(other, ONE) is Status.SUCCESS


async def test_a_batch_that_is_given_to_a_partition_dropped_meanwhile_is_read_again(lone_store: RedisStore) -> None:
    await tell(lone_store, ONE, "running")

    assert not await PartitionProjector(lone_store, 0, heads=1).project(await _rows(lone_store))


async def _nothing() -> None:
    await asyncio.sleep(0)


async def _rows(store: RedisStore):
    return [(parse_entry_id(entry), fields) for entry, fields in await store.client.xrange(store.meta.keys[0].events)]


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated(redis_url: str) -> None:
    async with RedisStore.open(redis_url, partitions=1) as own, RedisStore.open(redis_url) as other:
        await tell(other, ONE, "pending", numbered=True, request={})
        await tell(other, TWO, "junk")
        projector, calls = Projector(own), 0

        async def breaks_after_the_commit() -> None:
            nonlocal calls
            if not calls and int(await other.client.hget(other.meta.keys[0].cursor, "n") or 0) == 1:
                calls += 1
                raise StoreUnavailable("the connection broke")

        stepped(own, breaks_after_the_commit)
        await projector.drain()
        await asyncio.sleep(0)
        await tell(other, THREE, "pending", numbered=True)
        while await status_of(other, THREE) is None:
            await projector.turn(block_ms=10)

        assert calls == 1
        records = await other.runs.get_many([ONE, THREE])
        assert [record and record.run.run_number for record in records] == [1, 2]
        assert await other.client.xlen(other.meta.keys[0].dead) == 1
        assert len(await other.runs.history(ONE)) == 1
        assert await other.client.hkeys("runstore:{n:forecasts}:numbers") == [b"f:0", b"last"]
