"""A Redis that was away, and a reaper that was: whoever holds a run may say so first."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstore.adapters.dispatch import RedisDispatch, Standing
from runstore.adapters.reaping import RedisReaping
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.partition import partition_of
from runstore.engine import Engine, EngineConfig, EngineKind, start
from runstore.engine.errors import NoServer
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from tests.projector.builders import run_id_of, tell

LEASE_MS = 400
CONFIG = ReaperConfig(every_ms=20, lease_ms=LEASE_MS)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A server of this test's own, that may be stopped."""
    try:
        engine = start(EngineConfig(data_dir=tmp_path / "redis", kind=EngineKind.WHEEL))
    except NoServer:
        pytest.skip("no such server can be started on this machine")
    with engine:
        yield engine


def be_away(engine: Engine, for_s: float) -> None:
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        time.sleep(for_s)
    finally:
        os.kill(engine.pid, signal.SIGCONT)


async def hold(store: RedisStore, number: int, lease_ms: int = LEASE_MS) -> tuple[RunId, str]:
    """Ask for a run, claim it and begin it."""
    run_id = run_id_of(number)
    await tell(store, run_id, "pending", request={"inputs": {}})
    await Projector(store).drain()
    terms = {"lease_ms": lease_ms, "deadline_ms": 600_000}
    dispatch = RedisDispatch(store)
    row = await dispatch.claim(partition_of(run_id, 16), "forecasts", worker="w", attempts=1, **terms)
    assert row is not None
    assert await dispatch.begin(run_id, row.token, **terms) is Standing.HELD
    return run_id, row.token


async def turn_until_it_resumes(reaper: Reaper, store: RedisStore) -> None:
    """Take turns until the time is over for which nothing may be ended, and one turn more."""
    reaping = RedisReaping(store)
    began_ms = now_ms = await reaping.now_ms()
    # on a busy machine a turn may come late, which is an outage of its own
    while now_ms <= max(began_ms + LEASE_MS, reaper._resume_ms) + 50:
        await reaper.turn()
        now_ms = await reaping.now_ms()
    await reaper.turn()


async def test_a_worker_may_say_that_it_lives_after_redis_was_away_for_longer_than_its_lease(engine: Engine) -> None:
    async with RedisStore.open(engine.redis_url) as store:
        reaper = Reaper(store, CONFIG)
        await turn_until_it_resumes(reaper, store)
        run_id, token = await hold(store, 1)
        await reaper.turn()

        be_away(engine, 1.5 * LEASE_MS / 1000)

        assert await reaper.turn() == 0
        assert await RedisDispatch(store).heartbeat(run_id, token, lease_ms=600_000) is Standing.HELD
        await turn_until_it_resumes(reaper, store)
        assert (reaper.ended, reaper.retried) == (0, 0)


async def test_a_worker_that_says_nothing_after_an_outage_is_lost_a_lease_later(engine: Engine) -> None:
    async with RedisStore.open(engine.redis_url) as store:
        reaper = Reaper(store, CONFIG)
        await turn_until_it_resumes(reaper, store)
        await hold(store, 1)
        await reaper.turn()

        be_away(engine, 1.5 * LEASE_MS / 1000)
        reaping = RedisReaping(store)
        back_ms = await reaping.now_ms()
        async with asyncio.timeout(45):
            while not reaper.ended:
                await reaper.turn()

        assert await reaping.now_ms() >= back_ms + LEASE_MS
        assert reaper.ended == 1


async def test_a_reaper_that_was_just_started_ends_no_run_whose_lease_went_by_meanwhile(real_store: RedisStore) -> None:
    run_id, token = await hold(real_store, 1, lease_ms=1)
    reaping = RedisReaping(real_store)
    while not (await reaping.look(await reaping.now_ms())).leases:
        pass

    reaper = Reaper(real_store, CONFIG)

    assert await reaper.turn() == 0
    assert await RedisDispatch(real_store).heartbeat(run_id, token, lease_ms=600_000) is Standing.HELD
    await turn_until_it_resumes(reaper, real_store)
    assert reaper.ended == 0


async def test_a_run_in_the_queue_is_timed_out_by_a_reaper_that_was_just_started(real_store: RedisStore) -> None:
    run_id = run_id_of(1)
    await tell(real_store, run_id, "pending", request={"inputs": {}, "queue_timeout_s": 0.001})
    await Projector(real_store).drain()
    reaping = RedisReaping(real_store)
    while not (await reaping.look(await reaping.now_ms())).queue_deadlines:
        pass

    # nobody's word is waited for: no worker holds it
    assert await Reaper(real_store, ReaperConfig(lease_ms=60_000)).turn() == 1
