"""The ports Log and Feed: appending, epochs, waiting for news, proving places."""

import asyncio
from collections.abc import Callable
from time import monotonic

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.cursor import Place, Standing, judge
from runstore.core.errors import InvalidRequest, StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.projector import Projector
from tests.projector.builders import event_of, run_id_of, tell

RUN: RunId = run_id_of(1)


async def test_entries_of_a_run_have_growing_places_in_its_own_partition(store: RedisStore) -> None:
    places = [await tell(store, RUN, "running") for _ in range(3)]

    assert places == sorted(set(places))
    assert await store.client.xlen(store.meta.keys_of(RUN).events) == 3


async def test_the_projects_that_a_publisher_may_write_travel_with_the_event(store: RedisStore) -> None:
    await store.log.append(RUN, event_of(RUN, "running"), may_write=frozenset({"b", "a"}))

    [(_, fields)] = await store.client.xrange(store.meta.keys_of(RUN).events)
    assert msgspec.json.decode(fields[b"may_write"]) == ["a", "b"]


async def test_an_epoch_is_made_once_and_differs_between_partitions(store: RedisStore) -> None:
    epochs = [await store.log.epoch(partition) for partition in range(store.log.partitions)]

    assert epochs == [await store.log.epoch(partition) for partition in range(store.log.partitions)]
    assert len(set(epochs)) > 1


async def test_the_number_of_partitions_is_fixed_when_the_store_is_created(any_redis_url: str) -> None:
    async with RedisStore.open(any_redis_url, partitions=3) as store:
        assert store.log.partitions == 3
    async with RedisStore.open(any_redis_url, partitions=5) as store:
        assert store.log.partitions == 3
    with pytest.raises(InvalidRequest):
        await RedisStore.connect(any_redis_url, partitions=0)


@pytest.mark.parametrize("durability", ["acknowledged", "fsynced"])
async def test_an_append_is_as_durable_as_it_was_asked_to_be(redis_url: str, durability: str) -> None:
    async with RedisStore.open(redis_url, durability=durability) as store:
        await tell(store, RUN, "running")


async def test_an_append_that_no_replica_took_says_so(redis_url: str) -> None:
    async with RedisStore.open(redis_url, durability="replicated", timeout_s=0.5) as store:
        with pytest.raises(StoreUnavailable, match="replicated"):
            await tell(store, RUN, "running")


async def test_a_wait_for_news_ends_when_there_is_some(store: RedisStore) -> None:
    waiting = asyncio.create_task(store.feed.wait(dict.fromkeys(range(16), 0), 20_000))
    await tell(store, RUN, "running")
    await Projector(store).drain()

    [(partition, entry)] = await asyncio.wait_for(waiting, 15)
    assert partition == store.meta.keys_of(RUN).partition
    assert entry.n == 1
    assert entry.changes[0].run.run_id == RUN


async def test_a_wait_without_news_ends_in_its_time(store: RedisStore) -> None:
    began = monotonic()

    assert await store.feed.wait({0: 0}, 150) == []
    # what does not end in its time waits for half a minute, or for ever
    assert 0.1 < monotonic() - began < 15
    assert await store.feed.wait({0: 0}, 0) == []
    assert await store.feed.wait({}, 5) == []


async def test_reading_back_gives_the_entries_between_two_numbers(store: RedisStore) -> None:
    for status in ("pending", "running", "success"):
        await tell(store, RUN, status)
        await Projector(store).drain()
    partition = store.meta.keys_of(RUN).partition

    assert [entry.n for entry in await store.feed.read(partition, 0, 9)] == [1, 2, 3]
    assert [entry.n for entry in await store.feed.read(partition, 1, 2)] == [2]
    assert await store.feed.read(partition, 3, 3) == []


async def test_places_are_judged_by_what_the_feed_still_holds(store: RedisStore) -> None:
    for status in ("pending", "running"):
        await tell(store, RUN, status)
        await Projector(store).drain()
    partition = store.meta.keys_of(RUN).partition
    (place, last), epoch = (await store.feed.tail())[partition], await store.log.epoch(partition)
    assert last is not None
    assert last.nonce == place.nonce
    ahead = await tell(store, RUN, "success")

    async def standing(**changes: object) -> Standing:
        changed = msgspec.structs.replace(place, **changes)
        return judge(changed, await store.feed.sight(changed))

    assert await standing() is Standing.PROVEN
    assert await standing(n=0, nonce=b"") is Standing.PROVEN
    assert await standing(n=1, nonce=b"another") is Standing.LOST
    assert await standing(n=3) is Standing.LOST
    assert await standing(epoch=b"else") is Standing.LOST
    assert await standing(entry=ahead) is Standing.AHEAD
    assert await standing(entry=ahead._replace(ms=ahead.ms + 1)) is Standing.LOST
    await store.client.xdel(store.meta.keys_of(RUN).feed, "1-0")
    assert await standing(n=0, nonce=b"") is Standing.GAP
    assert judge(place, await store.feed.sight(Place(partition=99, epoch=epoch))) is Standing.LOST


async def test_an_event_that_the_log_lost_proves_no_place_however_much_came_after_it(store: RedisStore) -> None:
    kept, lost, later = [await tell(store, RUN, status) for status in ("pending", "running", "success")]
    keys = store.meta.keys_of(RUN)
    await store.client.xdel(keys.events, str(lost))
    await Projector(store).drain()
    here = Place(partition=keys.partition, epoch=await store.log.epoch(keys.partition))

    async def standing(entry: EntryId) -> Standing:
        place = msgspec.structs.replace(here, entry=entry)
        return judge(place, await store.feed.sight(place))

    assert [await standing(entry) for entry in (kept, lost, later)] == [Standing.PROVEN, Standing.LOST, Standing.PROVEN]
    await store.client.xtrim(keys.events, maxlen=1, approximate=False)
    assert await standing(kept) is Standing.PROVEN, "what was trimmed was folded before"


async def test_each_entry_names_the_commit_that_it_follows(store: RedisStore) -> None:
    projector = Projector(store)
    for status in ("pending", "running", "success"):
        await tell(store, RUN, status)
        await projector.drain()

    entries = await store.feed.read(store.meta.keys_of(RUN).partition, 0, 9)
    assert [entry.before for entry in entries] == [b"", *(entry.nonce for entry in entries[:-1])]


async def test_what_no_projector_wrote_into_a_feed_tells_nothing_and_is_passed_over(store: RedisStore) -> None:
    keys = store.meta.keys_of(RUN)
    await tell(store, RUN, "running")
    await Projector(store).drain()
    await store.client.xadd(keys.feed, {"x": "y"}, id="7-3")

    [_, (partition, strange)] = await store.feed.wait({keys.partition: 0}, 0)

    assert (partition, strange.n, strange.changes, strange.before) == (keys.partition, 7, (), None)
    assert await store.feed.wait({keys.partition: 7}, 0) == []
    place, _ = (await store.feed.tail())[keys.partition]
    assert (place.n, place.nonce) == (7, b"")


async def test_an_emptied_store_proves_no_place_of_its_former_life(
    any_redis_url: str, emptying: Callable[[], str]
) -> None:
    async with RedisStore.open(any_redis_url) as store:
        await tell(store, RUN, "running")
        await Projector(store).drain()
        place, _ = (await store.feed.tail())[store.meta.keys_of(RUN).partition]
    emptying()

    async with RedisStore.open(any_redis_url) as store:
        assert judge(place, await store.feed.sight(place)) is Standing.LOST
