"""What the feed says about a place is asked once for all who ask at about one time, never from before a rollback."""

import asyncio

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.cursor import Place, Standing, judge
from runstore.core.errors import StoreUnavailable
from runstore.feed.shared import Shared
from tests.projector.builders import run_id_of, tell


class Counted:
    """The store's own answers, counted."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.questions = 0

    async def see(self, place: Place):
        self.questions += 1
        return await self._store.feed.sight(place)


@pytest.fixture
def counted(real_store: RedisStore) -> Counted:
    return Counted(real_store)


async def places(store: RedisStore) -> list[Place]:
    return [place for place, _ in await store.feed.tail()]


async def test_a_crowd_that_asks_about_one_place_asks_once(real_store: RedisStore, counted: Counted) -> None:
    sights, (place, other, *_) = Shared(counted.see, fresh_s=60), await places(real_store)

    answers = await asyncio.gather(*(sights.ask(place) for _ in range(100)), sights.ask(other))

    assert counted.questions == 2
    assert {judge(place, sight) for sight in answers[:-1]} == {Standing.PROVEN}


async def test_who_asks_later_asks_anew(real_store: RedisStore, counted: Counted) -> None:
    sights, (place, *_) = Shared(counted.see, fresh_s=0), await places(real_store)

    await sights.ask(place)
    await asyncio.sleep(0)
    await sights.ask(place)

    assert counted.questions == 2


async def test_after_a_rollback_nobody_is_answered_from_before(real_store: RedisStore, counted: Counted) -> None:
    await tell(real_store, run_id_of(1), "running")
    sights, (place, *_) = Shared(counted.see, fresh_s=60), await places(real_store)
    await sights.ask(place)
    await real_store.client.execute_command("DEL", real_store.meta.keys[0].cursor, real_store.meta.keys[0].feed)

    sights.forget_all()

    assert judge(place, await sights.ask(place)) is Standing.LOST


async def test_one_who_hangs_up_takes_no_answer_from_the_others(real_store: RedisStore, counted: Counted) -> None:
    sights, (place, *_) = Shared(counted.see, fresh_s=60), await places(real_store)
    first, second = asyncio.create_task(sights.ask(place)), asyncio.create_task(sights.ask(place))
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).epoch == place.epoch


async def test_a_failure_is_told_to_all_who_asked_and_to_nobody_later() -> None:
    async def fail(_: Place):
        raise StoreUnavailable("away")

    sights = Shared(fail, fresh_s=0)
    place = Place(partition=0, epoch=b"e")

    told = await asyncio.gather(*(sights.ask(place) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in told] == [StoreUnavailable] * 3
