"""What was looked up is shared by those who have joined the feed, until the feed tells something new of it."""

import asyncio

import pytest

from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.feed import Bodies
from runstore.feed.looked import LookedUp
from runstore.wire.record import Record
from tests.waiting import happens

RUN, OTHER = (RunId(f"00000000-0000-4000-8000-00000000000{number}") for number in (1, 2))


class Store:
    """Holds one state of every run, counts who looks, and can be held back."""

    def __init__(self) -> None:
        self.version = 1
        self.looks = 0
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def look(self, run_id: RunId) -> Record | None:
        self.looks += 1
        version = self.version
        await self.is_open.wait()
        if version == 0:
            return None
        if version < 0:
            raise StoreUnavailable("away")
        run = Run(run_id=run_id, project_name="forecasts", status=Status.RUNNING, created_ms=1, recorded_ms=1)
        return Record(run=run, version=version, page=0)


@pytest.fixture
def store() -> Store:
    return Store()


async def no_view(*_: object) -> None:
    raise AssertionError


def looked_up(limit_bytes: int = 1 << 20) -> LookedUp:
    return LookedUp(Bodies(no_view, 1), limit_bytes)


async def version(looked: LookedUp, store: Store, run_id: RunId = RUN) -> int | None:
    seen = await looked.see(run_id, store.look)
    return seen.record.version if seen is not None else None


async def test_a_crowd_looks_once_and_so_does_who_comes_later(store: Store) -> None:
    looked = looked_up()

    assert await asyncio.gather(*(version(looked, store) for _ in range(100))) == [1] * 100
    assert await version(looked, store) == 1
    assert store.looks == 1


async def test_what_the_feed_told_since_is_looked_up_anew(store: Store) -> None:
    looked = looked_up()
    await version(looked, store)
    store.version = 5

    looked.told(RUN, 5)

    assert await version(looked, store) == 5
    looked.told(RUN, 5)
    assert (await version(looked, store), store.looks) == (5, 2), "what was seen is what the feed told"


async def test_what_the_feed_told_while_a_look_was_on_its_way_is_not_lost_on_who_joins_after_it(store: Store) -> None:
    looked = looked_up()
    store.is_open.clear()
    early = asyncio.create_task(version(looked, store))
    await happens(lambda: store.looks == 1)
    store.version = 2

    looked.told(RUN, 2)
    late = asyncio.create_task(version(looked, store))
    await happens(lambda: store.looks == 2)
    store.is_open.set()

    assert (await early, await late) == (1, 2), "who joined before is told by the feed"
    assert await version(looked, store) == 2


async def test_after_a_rollback_nothing_is_shared_that_was_seen_before(store: Store) -> None:
    looked = looked_up()
    store.version = 9
    await version(looked, store)
    store.is_open.clear()
    under_way = asyncio.create_task(version(looked, store, OTHER))
    await happens(lambda: store.looks == 2)

    looked.forget_all()
    store.version = 1
    store.is_open.set()

    assert await under_way == 9
    assert [await version(looked, store, run_id) for run_id in (RUN, OTHER)] == [1, 1]


async def test_that_a_run_is_not_known_holds_until_the_feed_tells_of_it(store: Store) -> None:
    looked = looked_up()
    store.version = 0
    assert [await version(looked, store) for _ in range(3)] == [None] * 3
    assert store.looks == 1
    store.version = 4

    looked.told(RUN, 4)

    assert await version(looked, store) == 4


async def test_a_failure_is_told_to_all_who_asked_and_to_nobody_later(store: Store) -> None:
    looked = looked_up()
    store.version = -1
    failed = await asyncio.gather(*(version(looked, store) for _ in range(3)), return_exceptions=True)

    store.version = 1

    assert [type(error) for error in failed] == [StoreUnavailable] * 3
    assert await version(looked, store) == 1


async def test_no_more_is_kept_than_memory_bears(store: Store) -> None:
    looked = looked_up(limit_bytes=2048)
    await version(looked, store)
    await version(looked, store, OTHER)

    await version(looked, store)

    assert store.looks == 3


async def test_one_who_hangs_up_takes_no_look_from_the_others(store: Store) -> None:
    looked = looked_up()
    first, second = (asyncio.create_task(version(looked, store)) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()

    assert await second == 1
