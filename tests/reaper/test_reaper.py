"""What becomes of runs whose worker is silent or whose time is over, and what does not."""

import asyncio
from collections.abc import Callable

import pytest

from runstore.adapters.dispatch import ClaimRow, RedisDispatch, Standing
from runstore.adapters.reaping import RedisReaping
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId, to_bytes
from runstore.core.partition import partition_of
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from tests.conftest import emptied
from tests.projector.builders import run_id_of, tell

CONFIG = ReaperConfig(every_ms=20, lease_ms=400)
LONG_MS = 600_000
SOON_S = 45.0
"""What is awaited comes in moments, unless the machine keeps the reaper from its turns: each gap is an outage to it."""


BOTH = pytest.mark.parametrize("any_redis_url", ["real", "memory"], indirect=True)


@pytest.fixture
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """A real server, but for tests that name others."""
    return emptied(request.getfixturevalue(f"{getattr(request, 'param', 'real')}_server"))


@pytest.fixture
def dispatch(store: RedisStore) -> RedisDispatch:
    return RedisDispatch(store)


@pytest.fixture
async def reaper(store: RedisStore) -> Reaper:
    return Reaper(store, CONFIG)


async def ask(store: RedisStore, projector: Projector, number: int = 1, **request) -> RunId:
    run_id = run_id_of(number)
    await tell(store, run_id, "pending", numbered=True, request={"inputs": {}, **request})
    await projector.drain()
    return run_id


async def claim(dispatch: RedisDispatch, run_id: RunId, *, begun: bool = True, **changes) -> ClaimRow:
    terms = {"worker": "w", "attempts": 1, "lease_ms": 1, "deadline_ms": LONG_MS, **changes}
    row = await dispatch.claim(partition_of(run_id, 16), "forecasts", **terms)
    assert row is not None
    if begun:
        await dispatch.begin(run_id, row.token, lease_ms=terms["lease_ms"], deadline_ms=terms["deadline_ms"])
    return row


async def get(store: RedisStore, run_id: RunId) -> Run:
    record = (await store.runs.get_many([run_id]))[0]
    assert record is not None
    return record.run


async def take_turns(reaper: Reaper, until: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not until():
            await reaper.turn()
            await asyncio.sleep(0.01)


async def take_a_term(reaper: Reaper, store: RedisStore) -> None:
    """Take turns for a while in which everything that is past is seen."""
    reaping = RedisReaping(store)
    await reaper.turn()
    begun = await reaping.now_ms()
    until = begun
    async with asyncio.timeout(SOON_S):
        while until < max(begun, reaper._resume_ms) + 100:
            await reaper.turn()
            await asyncio.sleep(0.01)
            until = await reaping.now_ms()


async def test_a_run_whose_worker_is_silent_is_failed(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector)
    row = await claim(dispatch, run_id)

    await take_turns(reaper, lambda: reaper.ended == 1)
    await projector.drain()

    run = await get(store, run_id)
    assert (run.status, run.error_message, run.attempt) == (Status.FAILED, "worker lost", 1)
    assert await dispatch.heartbeat(run_id, row.token, lease_ms=1000) is Standing.LOST
    assert await reaper.turn() == 0


@BOTH
async def test_a_run_is_tried_again_while_attempts_remain(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector)
    first = await claim(dispatch, run_id, attempts=2)

    await take_turns(reaper, lambda: reaper.retried == 1)
    second = await claim(dispatch, run_id, attempts=2)

    assert (first.attempt, second.attempt) == (1, 2)
    assert await dispatch.heartbeat(run_id, first.token, lease_ms=LONG_MS) is Standing.LOST
    await take_turns(reaper, lambda: reaper.ended == 1)
    await projector.drain()
    run = await get(store, run_id)
    assert (run.status, run.error_message, run.attempt) == (Status.FAILED, "worker lost", 2)


async def test_a_worker_lost_before_the_command_began_costs_no_attempt(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector, queue_timeout_s=600)
    await claim(dispatch, run_id, begun=False)

    await take_turns(reaper, lambda: reaper.retried == 1)

    keys = store.meta.keys_of(run_id)
    assert await store.client.zscore(keys.queue_deadlines, to_bytes(run_id))
    assert (await claim(dispatch, run_id, begun=False)).attempt == 1


async def test_a_run_that_kills_its_workers_before_it_begins_ends(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector)
    claims = 0

    async with asyncio.timeout(SOON_S):
        while not reaper.ended:
            if await dispatch.waiting(["forecasts"]):
                await claim(dispatch, run_id, begun=False)
                claims += 1
            await reaper.turn()
            await asyncio.sleep(0.01)

    assert claims == 4


async def test_a_silent_worker_that_was_asked_to_cancel_leaves_a_cancelled_run(
    store, projector, dispatch, reaper
) -> None:
    run_id = await ask(store, projector)
    await claim(dispatch, run_id, attempts=5)
    assert await store.served.ask_cancel(run_id)

    await take_turns(reaper, lambda: reaper.ended == 1)
    await projector.drain()

    assert (await get(store, run_id)).status is Status.CANCELLED
    assert not await dispatch.waiting(["forecasts"])


@BOTH
async def test_a_run_that_nobody_takes_times_out(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector, queue_timeout_s=0.05)
    patient = await ask(store, projector, 2, queue_timeout_s=600)

    await take_turns(reaper, lambda: reaper.ended == 1)

    assert list(await dispatch.waiting(["forecasts"])) == [(partition_of(patient, 16), "forecasts")]
    await projector.drain()
    run = await get(store, run_id)
    assert (run.status, run.error_message) == (Status.TIMED_OUT, "no worker took the run within 0.05 s")
    assert (await get(store, patient)).status is Status.PENDING


async def test_a_run_that_was_taken_in_time_does_not_time_out_in_the_queue(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector, queue_timeout_s=0.05)
    await claim(dispatch, run_id, lease_ms=LONG_MS)

    await take_a_term(reaper, store)

    assert (reaper.ended, reaper.retried) == (0, 0)


@BOTH
async def test_a_run_whose_worker_lives_but_does_not_end_it_times_out(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector, timeout_s=0.05)
    row = await claim(dispatch, run_id, lease_ms=LONG_MS, deadline_ms=50)

    await take_turns(reaper, lambda: reaper.ended == 1)
    await projector.drain()

    run = await get(store, run_id)
    assert (run.status, run.error_message) == (Status.TIMED_OUT, "no end within 0.05 s")
    assert await dispatch.heartbeat(run_id, row.token, lease_ms=1000) is Standing.LOST


async def test_a_reaper_frozen_between_look_and_deed_kills_nobody(store, projector, dispatch) -> None:
    ids = [await ask(store, projector, number, queue_timeout_s=0.001) for number in range(4)]
    rows = {run_id: await claim(dispatch, run_id, lease_ms=1, deadline_ms=1, attempts=9) for run_id in ids[:3]}
    reaping = RedisReaping(store)
    async with asyncio.timeout(SOON_S):
        while len((sight := await reaping.look(await reaping.now_ms())).leases) < 3 or not sight.queue_deadlines:
            pass

    leases = {due.run_id: due for due in sight.leases}
    renewed, again, cancelled = ids[:3]
    await dispatch.heartbeat(renewed, rows[renewed].token, lease_ms=LONG_MS)
    await dispatch.begin(renewed, rows[renewed].token, lease_ms=LONG_MS, deadline_ms=LONG_MS)
    assert await reaping.retry(leases[again])
    await claim(dispatch, again, attempts=9, lease_ms=LONG_MS)
    await store.served.ask_cancel(cancelled)
    await claim(dispatch, ids[3], lease_ms=LONG_MS)

    for run_id in (renewed, again, cancelled):
        assert not await reaping.retry(leases[run_id])
        assert not await reaping.end_lease(leases[run_id], b"{}")
    late = {due.run_id: due for due in sight.deadlines}
    assert not await reaping.end_deadline(late[renewed], b"{}")
    assert not await reaping.end_deadline(late[again], b"{}")
    assert not await reaping.end_wait(sight.queue_deadlines[0], b"{}")
    assert await store.client.xlen(store.meta.keys_of(renewed).events) == sum(
        partition_of(run_id, 16) == partition_of(renewed, 16) for run_id in ids
    )


async def test_two_reapers_end_a_run_once(store, projector, dispatch) -> None:
    ids = [await ask(store, projector, number) for number in range(6)]
    for run_id in ids:
        await claim(dispatch, run_id)
    twins = [Reaper(store, CONFIG), Reaper(store, CONFIG)]

    async with asyncio.timeout(SOON_S):
        while sum(reaper.ended for reaper in twins) < 6:
            await asyncio.gather(*(reaper.turn() for reaper in twins))
            await asyncio.sleep(0.01)
    await asyncio.gather(*(reaper.turn() for reaper in twins))
    await projector.drain()

    assert sum(reaper.ended for reaper in twins) == 6
    assert [(await get(store, run_id)).ignored for run_id in ids] == [0] * 6


async def test_what_is_junk_or_of_the_wrong_type_holds_nothing_up(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector)
    await claim(dispatch, run_id)
    keys = store.meta.keys_of(run_id)
    unknown = to_bytes(run_id_of(99))
    for name in (keys.leases, keys.deadlines, keys.queue_deadlines):
        await store.client.zadd(name, {b"junk": 1, unknown: 1})
    broken = to_bytes(run_id_of(98))
    await store.client.zadd(keys.leases, {broken: 1})
    await store.client.set(keys.lease(broken), "junk")
    await store.client.set(store.meta.keys[(keys.partition + 1) % 16].leases, "junk")

    await take_turns(reaper, lambda: reaper.ended == 1)

    for name in (keys.leases, keys.deadlines, keys.queue_deadlines):
        assert await store.client.zscore(name, b"junk") is None
        assert await store.client.zscore(name, unknown) is None


async def test_after_an_outage_every_lease_gets_a_full_term(store, projector, dispatch, reaper, monkeypatch) -> None:
    run_id = await ask(store, projector)
    await take_a_term(reaper, store)
    await claim(dispatch, run_id, lease_ms=1)

    clock = reaper._seen
    assert clock is not None
    reaper._seen = (clock[0] - 60_000, clock[1] - 60)

    assert await reaper.turn() == 0
    assert await dispatch.heartbeat(run_id, (await token_of(store, run_id)), lease_ms=LONG_MS) is Standing.HELD
    await take_a_term(reaper, store)
    assert reaper.ended == 0


@BOTH
async def test_no_lease_lasts_longer_than_its_term_from_now(store, projector, dispatch, reaper) -> None:
    run_id = await ask(store, projector)
    row = await claim(dispatch, run_id, lease_ms=400)
    leases = store.meta.keys_of(run_id).leases
    await store.client.zincrby(leases, 3_600_000, to_bytes(run_id))  # as if the clock had been set back since

    await take_turns(reaper, lambda: reaper.ended == 1)

    assert await dispatch.heartbeat(run_id, row.token, lease_ms=400) is Standing.LOST


@BOTH
async def test_a_holder_says_how_much_of_its_time_is_left_whatever_the_clock_says(
    store, projector, dispatch, reaper
) -> None:
    run_id = await ask(store, projector, timeout_s=600)
    row = await claim(dispatch, run_id, lease_ms=LONG_MS)
    deadlines = store.meta.keys_of(run_id).deadlines
    await store.client.zincrby(deadlines, -3_600_000, to_bytes(run_id))  # as if the clock had been set ahead since

    await dispatch.heartbeat(run_id, row.token, lease_ms=LONG_MS, left_ms=LONG_MS)
    await take_a_term(reaper, store)
    assert reaper.ended == 0

    await dispatch.heartbeat(run_id, row.token, lease_ms=LONG_MS, left_ms=0)
    await take_turns(reaper, lambda: reaper.ended == 1)


async def token_of(store: RedisStore, run_id: RunId) -> str:
    key = store.meta.keys_of(run_id).lease(to_bytes(run_id))
    return (await store.client.execute_command("HGET", key, "token")).decode()


async def test_a_reaper_starts_stops_twice_and_lives_through_trouble(store, projector, dispatch) -> None:
    reaper = Reaper(store, CONFIG)
    run_id = await ask(store, projector)
    await claim(dispatch, run_id)
    await store.client.set("runstore:meta", "junk")
    async with reaper:
        async with asyncio.timeout(SOON_S):
            while not reaper.ended:
                await store.ping()
        waiting = asyncio.create_task(reaper.wait())
        await reaper.stop()
        await reaper.stop()
        await asyncio.wait_for(waiting, SOON_S)
