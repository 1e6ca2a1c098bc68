"""What a worker sees of dispatch: offers without polling, turns of projects, cancels heard at once."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.event import Event
from runstore.core.ids import to_bytes
from runstore.core.status import Status
from runstore.dispatch import Claim, Dispatch, DispatchConfig, Released, ServedProject, Standing
from runstore.wire.event import encode_event
from tests.conftest import emptied
from tests.projector.builders import run_id_of, tell

FORECASTS = ServedProject(name="forecasts")
SLOW = DispatchConfig(name="w", recheck_s=3600, block_ms=2000)


BOTH = pytest.mark.parametrize("any_redis_url", ["real", "memory"], indirect=True)


@pytest.fixture
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """A real server, but for tests that name others."""
    return emptied(request.getfixturevalue(f"{getattr(request, 'param', 'real')}_server"))


@pytest.fixture
async def open_dispatch(any_redis_url: str, store: RedisStore):
    async with AsyncExitStack() as stack:

        async def opened(*projects: ServedProject, config: DispatchConfig = SLOW) -> Dispatch:
            dispatch = await stack.enter_async_context(Dispatch.open(any_redis_url, config))
            await dispatch.register(projects or [FORECASTS])
            return dispatch

        yield opened


async def ask(store: RedisStore, number: int, project: str = "forecasts", **request) -> str:
    run_id = run_id_of(number)
    await tell(store, run_id, "pending", project_name=project, request=request or {"inputs": {}})
    return run_id


@BOTH
async def test_an_idle_worker_is_woken_by_an_offer(store, projector, open_dispatch) -> None:
    dispatch = await open_dispatch()
    waiting = asyncio.create_task(dispatch.claim())
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done

    run_id = await ask(store, 1, inputs={"horizon": 3}, commit_sha="abc1234", timeout_s=7)
    await projector.drain()
    claim = await asyncio.wait_for(waiting, 2)

    assert (claim.run_id, claim.attempt, claim.timeout_s, claim.request.commit_sha) == (run_id, 1, 7, "abc1234")
    assert bytes(claim.request.inputs) == b'{"horizon":3}'


async def test_runs_that_waited_before_the_worker_came_are_claimed(store, projector, open_dispatch) -> None:
    ids = {await ask(store, number) for number in range(20)}
    await projector.drain()

    dispatch = await open_dispatch()

    assert {(await asyncio.wait_for(dispatch.claim(), 2)).run_id for _ in ids} == ids


async def test_projects_take_turns(store, projector, open_dispatch) -> None:
    for number in range(30):
        await ask(store, number, "crowd")
    for number in range(30, 33):
        await ask(store, number, "quiet")
    await projector.drain()

    dispatch = await open_dispatch(ServedProject(name="crowd"), ServedProject(name="quiet"))
    first = [(await dispatch.claim()).project.name for _ in range(6)]

    assert sorted(first) == ["crowd"] * 3 + ["quiet"] * 3


async def test_only_runs_of_the_projects_that_are_served_are_claimed(store, projector, open_dispatch) -> None:
    await ask(store, 1, "others")
    mine = await ask(store, 2)
    await projector.drain()
    dispatch = await open_dispatch()

    assert (await dispatch.claim()).run_id == mine
    assert await store.served.projects_served() == {"forecasts"}
    done, pending = await asyncio.wait({asyncio.create_task(dispatch.claim())}, timeout=0.2)
    assert not done
    pending.pop().cancel()


async def test_many_workers_never_claim_one_run_twice(store, projector, open_dispatch) -> None:
    workers = [await open_dispatch() for _ in range(4)]
    claims: list[Claim] = []
    enough = asyncio.Event()

    async def take(dispatch: Dispatch) -> None:
        while True:
            claims.append(await dispatch.claim())
            if len(claims) == 60:
                enough.set()

    tasks = [asyncio.create_task(take(dispatch)) for dispatch in workers]
    ids = {await ask(store, number) for number in range(60)}
    await projector.drain()
    await asyncio.wait_for(enough.wait(), 10)
    for task in tasks:
        task.cancel()

    assert len(claims) == 60
    assert {claim.run_id for claim in claims} == ids


async def test_a_claim_that_is_cancelled_leaves_no_run_to_nobody(store, projector, open_dispatch) -> None:
    dispatch = await open_dispatch()
    for number in range(40):
        await ask(store, number)
    await projector.drain()
    taken = 0
    for turn in range(30):
        task = asyncio.create_task(dispatch.claim())
        for _ in range(turn):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task})
        taken += not done.pop().cancelled()

    waiting = leased = 0
    for keys in store.meta.keys:
        waiting += await store.client.zcard(keys.queue("forecasts"))
        leased += await store.client.zcard(keys.leases)
    assert (waiting, leased) == (40 - taken, taken)


@BOTH
async def test_a_cancel_is_heard_at_once(store, projector, open_dispatch) -> None:
    dispatch = await open_dispatch()
    run_id = await ask(store, 1)
    await projector.drain()
    claim = await dispatch.claim()
    assert await dispatch.begin(claim) is Standing.HELD
    while await dispatch.heard(claim, 0.05):
        pass
    hearing = asyncio.create_task(dispatch.heard(claim, 10))

    assert await store.served.ask_cancel(run_id)

    assert await asyncio.wait_for(hearing, 2)
    assert await dispatch.heartbeat(claim) is Standing.CANCEL_ASKED


async def test_the_end_of_a_run_by_others_is_heard_at_once(store, projector, open_dispatch) -> None:
    dispatch = await open_dispatch()
    run_id = run_id_of(1)
    await tell(store, run_id, "pending", numbered=True, request={"inputs": {}})
    await projector.drain()
    claim = await dispatch.claim()
    while await dispatch.heard(claim, 0.05):
        pass
    hearing = asyncio.create_task(dispatch.heard(claim, 10))

    await store.log.append(run_id, encode_event(Event(run_id=run_id, status=Status.TIMED_OUT, project_name=None)))
    await projector.drain()

    assert claim.run_id == run_id
    assert await asyncio.wait_for(hearing, 2)
    assert await dispatch.heartbeat(claim) is Standing.LOST


async def test_a_run_that_is_given_back_goes_to_another_worker(store, projector, open_dispatch) -> None:
    project = ServedProject(name="forecasts", attempts=2)
    first, second = await open_dispatch(project), await open_dispatch(project)
    await ask(store, 1)
    await projector.drain()
    claim = await first.claim()
    await first.begin(claim)
    waiting = asyncio.create_task(second.claim())

    assert await first.release(claim) is Released.REQUEUED
    again = await asyncio.wait_for(waiting, 2)

    assert (again.run_id, again.attempt) == (claim.run_id, 2)
    assert await first.heartbeat(claim) is Standing.LOST
    await first.finish(claim)
    assert await second.heartbeat(again) is Standing.HELD


async def test_a_request_that_is_gone_ends_its_run(store, projector, open_dispatch) -> None:
    run_id, good = await ask(store, 1), await ask(store, 2)
    await projector.drain()
    await store.client.set(store.meta.keys_of(run_id).request(to_bytes(run_id)), b"\xff")
    dispatch = await open_dispatch()

    assert (await dispatch.claim()).run_id == good
    waiting = asyncio.create_task(dispatch.claim())
    while not (record := (await store.runs.get_many([run_id]))[0]) or not record.run.is_terminal:
        await projector.turn(10)
    waiting.cancel()

    assert record.run.status is Status.FAILED
    assert "ask for a new run" in record.run.error_message


async def test_an_offer_that_was_never_heard_is_found_by_looking_again(store, projector, open_dispatch) -> None:
    dispatch = await open_dispatch(config=DispatchConfig(recheck_s=0.2))
    waiting = asyncio.create_task(dispatch.claim())
    run_id = run_id_of(1)
    keys = store.meta.keys_of(run_id)
    await store.client.set(keys.request(to_bytes(run_id)), b"{}")

    await store.client.zadd(keys.queue("forecasts"), {to_bytes(run_id): 1})

    assert (await asyncio.wait_for(waiting, 3)).run_id == run_id


async def test_a_worker_whose_connections_were_cut_hears_again(store, projector, open_dispatch) -> None:
    dispatch = await open_dispatch()
    held = await ask(store, 1)
    await projector.drain()
    claim = await dispatch.claim()
    while await dispatch.heard(claim, 0.05):
        pass
    waiting = asyncio.create_task(dispatch.claim())

    await store.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    assert await dispatch.heard(claim, 3)
    later = await ask(store, 2)
    await projector.drain()
    assert (await asyncio.wait_for(waiting, 3)).run_id == later
    assert await store.served.ask_cancel(held)
    assert await dispatch.heartbeat(claim) is Standing.CANCEL_ASKED
