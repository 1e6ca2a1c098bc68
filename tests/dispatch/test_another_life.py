"""Work goes on, and is found again, where the store comes back without what it knew."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.status import Status
from runstore.dispatch import Claim, Dispatch, DispatchConfig, ServedProject, Standing
from runstore.engine.errors import NoServer
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from tests.projector.builders import run_id_of, tell
from tests.publish.site import Site
from tests.waiting import happens

RUN = run_id_of(1)
CONFIG = DispatchConfig(name="w", lease_ms=300, register_every_s=3600)


@pytest.fixture
async def dispatch(redis_url: str, real_store: RedisStore) -> AsyncIterator[Dispatch]:
    async with Dispatch.open(redis_url, CONFIG) as opened:
        await opened.register([ServedProject(name="forecasts", attempts=3)])
        yield opened


async def begun(dispatch: Dispatch, store: RedisStore) -> Claim:
    await tell(store, RUN, "pending", project_name="forecasts", request={"inputs": {}})
    await Projector(store).drain()
    claim = await dispatch.claim()
    assert await dispatch.begin(claim) is Standing.HELD
    return claim


async def status(store: RedisStore) -> Status | None:
    (record,) = await store.runs.get_many([RUN])
    return record.run.status if record is not None else None


async def test_a_run_that_is_worked_on_is_held_and_known_in_another_life_of_the_store(
    dispatch: Dispatch, real_store: RedisStore
) -> None:
    claim = await begun(dispatch, real_store)
    await real_store.client.flushall()

    assert await dispatch.heartbeat(claim) is Standing.HELD
    await Projector(real_store).drain()

    assert await status(real_store) is Status.RUNNING
    assert await dispatch.heartbeat(claim) is Standing.HELD


async def test_a_run_that_was_held_again_and_then_lost_its_worker_ends(
    dispatch: Dispatch, real_store: RedisStore
) -> None:
    claim = await begun(dispatch, real_store)
    await real_store.client.flushall()
    await dispatch.heartbeat(claim)

    async with Reaper(real_store, ReaperConfig(every_ms=50, lease_ms=300)), Projector(real_store):

        async def has_failed() -> bool:
            return await status(real_store) is Status.FAILED

        await happens(has_failed)


async def test_a_run_that_has_ended_is_not_held_again(dispatch: Dispatch, real_store: RedisStore) -> None:
    claim = await begun(dispatch, real_store)
    await tell(real_store, RUN, "failed", project_name="forecasts")
    await Projector(real_store).drain()

    assert await dispatch.heartbeat(claim) is Standing.LOST


async def test_a_claim_that_has_not_begun_is_not_taken_again(dispatch: Dispatch, real_store: RedisStore) -> None:
    await tell(real_store, RUN, "pending", project_name="forecasts", request={"inputs": {}})
    await Projector(real_store).drain()
    claim = await dispatch.claim()
    await real_store.client.flushall()

    assert await dispatch.heartbeat(claim) is Standing.LOST


async def test_projects_are_registered_again_when_the_store_is_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        site.start()
    except NoServer:
        pytest.skip("no such server can be started on this machine")
    try:
        async with Dispatch.open(site.url, CONFIG) as dispatch, RedisStore.open(site.url) as store:
            await dispatch.register([ServedProject(name="forecasts")])
            await store.client.flushall()
            site.stop()
            site.start()

            async def is_registered() -> bool:
                async with RedisStore.open(site.url) as back:
                    return await back.served.projects_served() == {"forecasts"}

            await happens(is_registered)
    finally:
        site.stop()
