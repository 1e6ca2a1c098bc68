"""Ids that somebody made by hand, and keys of ours that somebody filled with something else."""

import time

import pytest

from runstore.adapters.setback import set_back
from runstore.adapters.store import RedisStore
from runstore.core.cursor import Standing, judge
from runstore.core.status import Status
from runstore.projector import Projector
from tests.projector.builders import event_of, run_id_of, tell
from tests.projector.test_projector import dead_letters, status_of

LARGEST = 2**64 - 1
FUTURE_MS = 4_102_444_800_000
ONE, TWO, THREE = (run_id_of(number, partition=0, partitions=1) for number in (1, 2, 3))


@pytest.fixture
async def lone_store(redis_url: str):
    """A real store of one partition."""
    async with RedisStore.open(redis_url, partitions=1) as store:
        yield store


async def poison(store: RedisStore, entry_id: str, run_id=TWO) -> None:
    await store.client.execute_command(
        "XADD", store.meta.keys[0].events, entry_id, "event", event_of(run_id, "running")
    )


@pytest.mark.parametrize("seq", [1, LARGEST])
async def test_the_largest_id_is_a_dead_letter_and_holds_up_nothing_before_it(lone_store: RedisStore, seq: int) -> None:
    await tell(lone_store, ONE, "success")
    await poison(lone_store, f"{LARGEST}-{seq}")
    projector = Projector(lone_store)

    await projector.drain()
    await projector.turn(block_ms=1)

    assert await status_of(lone_store, ONE) is Status.SUCCESS
    [letter] = await dead_letters(lone_store)
    assert (letter[b"entry"], letter[b"at"][:4]) == (f"{LARGEST}-{seq}".encode(), b"9999")
    assert projector.turns_failed == 0


async def test_an_entry_that_can_be_neither_folded_nor_set_aside_is_tried_again_in_peace(
    store: RedisStore, projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise OverflowError("nobody thought of this")

    monkeypatch.setattr("runstore.projection.partition.write_batch", breaks)
    await tell(store, ONE, "running")

    for _ in range(5):
        await projector.turn(block_ms=0)

    assert projector.turns_failed == 1


@pytest.mark.parametrize("ms", [FUTURE_MS, LARGEST])
async def test_a_log_with_an_id_from_the_future_is_set_back_and_nothing_of_it_is_lost(
    lone_store: RedisStore, ms: int
) -> None:
    projector = Projector(lone_store)
    await tell(lone_store, ONE, "running")
    await projector.drain()
    await poison(lone_store, f"{ms}-7")
    await tell(lone_store, THREE, "running")
    await projector.drain()
    place, _ = (await lone_store.feed.tail())[0]

    assert await set_back(lone_store) == {0: 2}
    await tell(lone_store, ONE, "success")
    await projector.drain()

    assert [await status_of(lone_store, run) for run in (ONE, TWO, THREE)] == ["success", "running", "running"]
    assert len(await lone_store.runs.history(ONE)) == 2
    ids = [int(entry.partition(b"-")[0]) for entry, _ in await lone_store.client.xrange(lone_store.meta.keys[0].events)]
    assert len(ids) == 4
    assert max(ids) < time.time() * 1000 + 60_000
    assert judge(place, await lone_store.feed.sight(place)) is Standing.LOST
    assert await set_back(lone_store) == {}


async def test_a_log_is_set_back_before_it_was_folded_and_after_its_largest_id_was_deleted(
    lone_store: RedisStore,
) -> None:
    await tell(lone_store, ONE, "success")
    await poison(lone_store, f"{FUTURE_MS}-0")
    await poison(lone_store, f"{LARGEST}-{LARGEST}", THREE)
    await lone_store.client.execute_command("XDEL", lone_store.meta.keys[0].events, f"{LARGEST}-{LARGEST}")

    assert await set_back(lone_store) == {0: 1}
    await Projector(lone_store).drain()

    assert [await status_of(lone_store, run) for run in (ONE, TWO, THREE)] == ["success", "running", None]


async def test_a_log_that_is_emptied_and_set_back_by_hand_is_heard_again(lone_store: RedisStore) -> None:
    events, projector = lone_store.meta.keys[0].events, Projector(lone_store)
    await poison(lone_store, f"{FUTURE_MS}-0")
    await projector.drain()
    await lone_store.client.execute_command("XTRIM", events, "MAXLEN", 0)
    await lone_store.client.execute_command("XSETID", events, "1700000000000-0")

    await tell(lone_store, ONE, "success")
    await projector.drain()

    assert await status_of(lone_store, ONE) is Status.SUCCESS


@pytest.mark.parametrize("entry_id", [f"{LARGEST}-{LARGEST}", f"{LARGEST}-0", "5-0"])
async def test_a_feed_that_somebody_wrote_to_begins_anew(lone_store: RedisStore, entry_id: str) -> None:
    keys = lone_store.meta.keys[0]
    await tell(lone_store, ONE, "running")
    await Projector(lone_store).drain()
    place, _ = (await lone_store.feed.tail())[0]
    await lone_store.client.execute_command("XADD", keys.feed, entry_id, "x", "y")
    await tell(lone_store, ONE, "success")

    await Projector(lone_store).drain()

    assert await status_of(lone_store, ONE) is Status.SUCCESS
    assert judge(place, await lone_store.feed.sight(place)) is Standing.LOST
    newest, _ = (await lone_store.feed.tail())[0]
    assert place.n < newest.n < 10


async def test_a_cursor_that_holds_something_else_is_made_anew(store: RedisStore, projector: Projector) -> None:
    await store.client.hset(store.meta.keys_of(ONE).cursor, "colour", "red")
    await tell(store, ONE, "success")

    await projector.drain()

    assert await status_of(store, ONE) is Status.SUCCESS


async def test_a_partition_whose_owner_cannot_be_read_is_owned_all_the_same(real_store: RedisStore) -> None:
    await real_store.client.hset(real_store.meta.keys[3].owner, "a", "b")

    async with Projector(real_store) as projector:
        assert 3 in projector.partitions_owned


@pytest.mark.parametrize("value", ["many", "9" * 18])
async def test_a_project_whose_last_number_is_none_is_told(real_store: RedisStore, value: str) -> None:
    await real_store.client.hset("runstore:{n:forecasts}:numbers", "last", value)
    await tell(real_store, ONE, "pending", numbered=True)

    await Projector(real_store).drain()

    assert b"run numbers" in (await dead_letters(real_store))[0][b"reason"]
    fields = await real_store.client.hkeys("runstore:{n:forecasts}:numbers")
    assert fields == [b"last"], "nothing is written before all is checked"


async def test_an_event_of_100_mb_is_a_dead_letter_and_holds_up_nothing(real_store: RedisStore) -> None:
    await tell(real_store, ONE, "success", error_message="x" * 100_000_000)
    await tell(real_store, ONE, "failed")

    await Projector(real_store).drain()

    assert await status_of(real_store, ONE) is Status.FAILED
    assert b"over the limit" in (await dead_letters(real_store))[0][b"reason"]
