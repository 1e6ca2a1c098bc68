"""Claims, leases and signals as the scripts make them, over a real server and a stand-in."""

import asyncio
from typing import Any

import pytest

from runstore.adapters.dispatch import ClaimRow, RedisDispatch, Released, Standing
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId, to_bytes
from runstore.core.partition import partition_of
from runstore.projector import Projector
from tests.projector.builders import run_id_of, tell

LONG = {"lease_ms": 60_000, "deadline_ms": 60_000}


@pytest.fixture
def dispatch(store: RedisStore) -> RedisDispatch:
    return RedisDispatch(store)


async def ask(store: RedisStore, projector: Projector, number: int = 1, **request: Any) -> RunId:
    run_id = run_id_of(number)
    project = request.pop("project_name", "forecasts")
    await tell(store, run_id, "pending", project_name=project, request=request or {"inputs": {}})
    await projector.drain()
    return run_id


async def claim(dispatch: RedisDispatch, run_id: RunId, attempts: int = 1, **changes: Any) -> ClaimRow | None:
    return await dispatch.claim(
        partition_of(run_id, 16), "forecasts", worker="w", attempts=attempts, **{**LONG, **changes}
    )


async def test_a_run_that_was_asked_for_is_claimed_once(store, projector, dispatch) -> None:
    run_id = await ask(store, projector, inputs={"horizon": 3}, timeout_s=7)

    first, second = await asyncio.gather(claim(dispatch, run_id), claim(dispatch, run_id))

    taken = first or second
    assert taken is not None and (first is None or second is None)
    assert (taken.run_id, taken.attempt) == (run_id, 1)
    assert b'"horizon":3' in taken.request
    assert not await dispatch.waiting(["forecasts"])


async def test_the_oldest_run_of_a_queue_comes_first(store, projector, dispatch) -> None:
    ids = [run_id_of(number, partition=3) for number in range(5)]
    for run_id in ids:
        await tell(store, run_id, "pending", request={"inputs": {}})
        await projector.drain()
        await store.client.execute_command("ZINCRBY", store.meta.keys[3].queue("forecasts"), 1, to_bytes(run_id))

    assert list(await dispatch.waiting(["other", "forecasts"])) == [(3, "forecasts")]
    claims = [await claim(dispatch, ids[0]) for _ in ids]
    assert len({row.run_id for row in claims}) == 5


async def test_a_claimed_run_has_a_lease_and_a_deadline_and_no_queue_deadline(store, projector, dispatch) -> None:
    run_id = await ask(store, projector, queue_timeout_s=60)
    keys, packed = store.meta.keys_of(run_id), to_bytes(run_id)
    assert await store.client.zscore(keys.queue_deadlines, packed)

    await claim(dispatch, run_id)

    assert await store.client.zscore(keys.leases, packed)
    assert await store.client.zscore(keys.deadlines, packed)
    assert await store.client.zscore(keys.queue_deadlines, packed) is None


async def test_only_the_holder_keeps_a_lease(store, projector, dispatch) -> None:
    run_id = await ask(store, projector)
    row = await claim(dispatch, run_id)

    assert await dispatch.heartbeat(run_id, row.token, lease_ms=5000) is Standing.HELD
    assert await dispatch.heartbeat(run_id, "0" * 32, lease_ms=5000) is Standing.LOST
    assert await dispatch.heartbeat(run_id_of(9), row.token, lease_ms=5000) is Standing.LOST


async def test_the_holder_of_a_run_hears_that_a_cancel_was_asked_for(store, projector, dispatch) -> None:
    run_id = await ask(store, projector)
    assert not await store.served.ask_cancel(run_id)
    row = await claim(dispatch, run_id)
    places = await dispatch.ends()

    assert await store.served.ask_cancel(run_id)

    assert [signal.run_id for signal in await dispatch.listen(places, 2000)] == [run_id]
    assert await dispatch.heartbeat(run_id, row.token, lease_ms=5000) is Standing.CANCEL_ASKED
    assert await dispatch.begin(run_id, row.token, **LONG) is Standing.CANCEL_ASKED
    assert await dispatch.release(run_id, row.token, "forecasts") is Released.CANCEL_ASKED


async def test_a_run_that_never_began_goes_back_without_counting(store, projector, dispatch) -> None:
    run_id = await ask(store, projector, queue_timeout_s=60)
    row = await claim(dispatch, run_id)
    places = await dispatch.ends()

    assert await dispatch.release(run_id, row.token, "forecasts") is Released.REQUEUED

    assert [signal.project for signal in await dispatch.listen(places, 2000)] == ["forecasts"]
    assert await store.client.zscore(store.meta.keys_of(run_id).queue_deadlines, to_bytes(run_id))
    assert not await store.served.ask_cancel(run_id)
    again = await claim(dispatch, run_id)
    assert again.attempt == 1 and again.token != row.token
    assert await dispatch.heartbeat(run_id, row.token, lease_ms=5000) is Standing.LOST


async def test_a_run_that_began_goes_back_while_attempts_remain(store, projector, dispatch) -> None:
    run_id = await ask(store, projector, queue_timeout_s=60)
    row = await claim(dispatch, run_id, attempts=2)
    assert await dispatch.begin(run_id, row.token, **LONG) is Standing.HELD

    assert await dispatch.release(run_id, row.token, "forecasts") is Released.REQUEUED
    assert await store.client.zscore(store.meta.keys_of(run_id).queue_deadlines, to_bytes(run_id)) is None
    row = await claim(dispatch, run_id, attempts=2)
    await dispatch.begin(run_id, row.token, **LONG)

    assert row.attempt == 2
    assert await dispatch.release(run_id, row.token, "forecasts") is Released.SPENT
    assert await dispatch.heartbeat(run_id, row.token, lease_ms=5000) is Standing.HELD


async def test_a_run_that_ended_is_never_offered_again(store, projector, dispatch) -> None:
    run_id = await ask(store, projector)
    other = await ask(store, projector, 2)
    row = await claim(dispatch, other)

    for ended in (run_id, other):
        await tell(store, ended, "cancelled")
    await projector.drain()

    assert await claim(dispatch, run_id) is None
    assert await dispatch.release(other, row.token, "forecasts") is Released.LOST
    assert await dispatch.heartbeat(other, row.token, lease_ms=5000) is Standing.LOST
    assert not await dispatch.waiting(["forecasts"])
    assert await store.client.zcard(store.meta.keys_of(other).leases) == 0


async def test_a_lease_that_was_finished_can_be_asked_nothing(store, projector, dispatch) -> None:
    run_id = await ask(store, projector)
    row = await claim(dispatch, run_id)

    await dispatch.finish(run_id, row.token)

    assert not await store.served.ask_cancel(run_id)
    assert await store.client.zscore(store.meta.keys_of(run_id).deadlines, to_bytes(run_id))


async def test_what_is_no_run_in_a_queue_holds_nothing_up(store, projector, dispatch) -> None:
    run_id = await ask(store, projector)
    await store.client.zadd(store.meta.keys_of(run_id).queue("forecasts"), {b"junk": 0})

    assert (await claim(dispatch, run_id)).run_id == run_id


async def test_projects_are_served_for_seven_days(store) -> None:
    await store.served.register(["forecasts", "prices", "forecasts"])
    await store.client.zadd("runstore:served", {"forgotten": 1})

    assert await store.served.projects_served() == {"forecasts", "prices"}


async def test_logs_are_read_as_they_were_appended(store) -> None:
    run_id = run_id_of(1)
    assert await store.logs.read_logs(run_id, "0", 0) == []
    waiting = asyncio.create_task(store.logs.read_logs(run_id, "0", 3000))
    await store.logs.append_logs(run_id, [("stdout", b"\x00\xff\r\n"), ("stderr", b""), ("stderr", b"e" * 20_000)])

    assert (await waiting)[0].data == b"\x00\xff\r\n"
    chunks = await store.logs.read_logs(run_id, "0", 0)
    assert [(chunk.stream, len(chunk.data)) for chunk in chunks] == [
        ("stdout", 4),
        ("stderr", 16 * 1024),
        ("stderr", 20_000 - 16 * 1024),
    ]
    assert await store.logs.read_logs(run_id, chunks[1].after, 0) == chunks[2:]
    await store.logs.end_logs(run_id)
    assert 0 < await store.client.ttl(store.meta.keys_of(run_id).logs(to_bytes(run_id))) <= 24 * 3600


async def test_logs_are_bounded(store) -> None:
    run_id = run_id_of(1)
    for _ in range(20):
        await store.logs.append_logs(run_id, [("stdout", b"x" * 16_384)] * 32)

    assert await store.client.xlen(store.meta.keys_of(run_id).logs(to_bytes(run_id))) < 400
