"""Waits and watches over one websocket that comes and goes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from runstore import (
    AmbiguousRunId,
    AsyncClient,
    GatewayUnreachable,
    InvalidRequest,
    InvalidRunId,
    RunNotFound,
    Unauthorized,
    WaitTimeout,
)
from runstore.client.run import Run
from tests.sdk.conftest import QUICK
from tests.sdk.scripted import Scripted, a_run, problem


def waiting_on(scripted: Scripted, *run_ids: str) -> Callable[[], bool]:
    def holds() -> bool:
        asked = {i for subs in scripted.subscriptions.values() for sub in subs.values() for i in sub.get("run_ids", ())}
        return set(run_ids) <= asked

    return holds


async def test_a_wait_is_pushed_and_asks_nothing_over_http(scripted: Scripted, client: AsyncClient) -> None:
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    await scripted.until(waiting_on(scripted, run_id))

    ended = await scripted.end(run_id)

    assert await wait == ended
    assert scripted.requests == ["GET /v1/ws"]
    assert [message["type"] for message in scripted.messages] == ["subscribe"]


async def test_a_run_that_has_ended_is_returned_at_once(scripted: Scripted, client: AsyncClient) -> None:
    ended = await scripted.end(str(uuid4()))

    assert await client.wait(ended.run_id.upper().replace("-", ""), timeout_s=40) == ended


async def test_ten_thousand_waits_are_ten_subscriptions_of_one_connection(
    scripted: Scripted, client: AsyncClient
) -> None:
    ids = [str(uuid4()) for _ in range(10_000)]
    waits = [asyncio.create_task(client.wait(run_id, timeout_s=30)) for run_id in ids]
    await scripted.until(waiting_on(scripted, *ids))
    assert len(scripted.messages) == 10
    assert max(len(message["run_ids"]) for message in scripted.messages) == 1000

    for run_id in ids:
        scripted.runs[run_id] = a_run(run_id, status="success")
    for socket, asked in list(scripted.subscriptions.items()):
        for one in list(asked.values()):
            for run_id in one["run_ids"]:
                await scripted.send(
                    socket, {"type": "run", "id": one["id"], "cursor": "1", "run": a_run(run_id, status="success")}
                )

    runs = await asyncio.gather(*waits)
    assert [run.run_id for run in runs] == ids
    assert scripted.opened == 1
    assert len(scripted.messages) == 10


async def test_waits_that_come_one_by_one_never_pass_the_limit_of_subscriptions(
    scripted: Scripted, client: AsyncClient
) -> None:
    ids, waits, most = [str(uuid4()) for _ in range(300)], [], 0
    for run_id in ids:
        waits.append(asyncio.create_task(client.wait(run_id, timeout_s=30)))
        await scripted.until(waiting_on(scripted, run_id))
        most = max(most, *(len(subs) for subs in scripted.subscriptions.values()))

    for run_id in ids:
        await scripted.end(run_id)

    assert {run.run_id for run in await asyncio.gather(*waits)} == set(ids)
    assert most <= 40


async def test_a_wait_outlives_its_connection(scripted: Scripted, client: AsyncClient) -> None:
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    for _ in range(3):
        await scripted.until(waiting_on(scripted, run_id))
        await scripted.cut()
        await scripted.until(lambda: not scripted.subscriptions)

    scripted.runs[run_id] = a_run(run_id, status="failed", error_message="no")

    assert (await wait).error_message == "no"


async def test_a_server_that_comes_back_is_found_again(scripted: Scripted, client: AsyncClient) -> None:
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    await scripted.until(waiting_on(scripted, run_id))

    await scripted.stop()
    scripted.runs[run_id] = a_run(run_id, status="success")
    await scripted.start()

    assert (await wait).status == "success"


@pytest.mark.parametrize("code", [1001, 1013, 1011])
async def test_a_close_is_no_end(scripted: Scripted, client: AsyncClient, code: int) -> None:
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    await scripted.until(waiting_on(scripted, run_id))

    for socket in list(scripted.subscriptions):
        await socket.close(code=code)
    await scripted.until(waiting_on(scripted, run_id))
    await scripted.end(run_id)

    assert (await wait).is_terminal


async def test_a_close_for_the_token_ends_every_wait(scripted: Scripted, client: AsyncClient) -> None:
    ids = [str(uuid4()) for _ in range(3)]
    waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids]
    await scripted.until(waiting_on(scripted, *ids))

    for socket in list(scripted.subscriptions):
        await socket.close(code=4401)

    for wait in waits:
        with pytest.raises(Unauthorized):
            await wait


async def test_a_token_that_renews_itself_goes_on_after_such_a_close(scripted: Scripted) -> None:
    given: list[str] = []

    def renew() -> str:
        given.append(f"token-{len(given)}")
        return given[-1]

    run_id = str(uuid4())
    async with AsyncClient(scripted.url, token=renew, config=QUICK) as client:
        wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
        await scripted.until(waiting_on(scripted, run_id))
        for socket in list(scripted.subscriptions):
            await socket.close(code=4401)
        await scripted.until(lambda: scripted.opened == 2 and waiting_on(scripted, run_id)())
        await scripted.end(run_id)

        assert (await wait).is_terminal
    assert len(given) == 2


async def test_a_refused_handshake_for_the_token_is_unauthorized(scripted: Scripted, client: AsyncClient) -> None:
    scripted.refuse_websocket = 401

    with pytest.raises(Unauthorized):
        await client.wait(str(uuid4()), timeout_s=40)


@pytest.mark.parametrize("status", [200, 400, 403, 404, 426, 501])
async def test_where_websockets_are_refused_a_wait_goes_on_by_long_poll(
    scripted: Scripted, client: AsyncClient, status: int
) -> None:
    scripted.refuse_websocket = status
    run_id = str(uuid4())
    scripted.runs[run_id] = a_run(run_id)
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    await scripted.until(lambda: f"GET /v1/runs/{run_id}" in scripted.requests)

    ended = await scripted.end(run_id)

    assert await wait == ended


async def test_a_busy_gateway_is_no_refusal(scripted: Scripted, client: AsyncClient) -> None:
    scripted.refuse_websocket = 503
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    await scripted.until(lambda: scripted.requests.count("GET /v1/ws") == 2)

    scripted.refuse_websocket = None
    await scripted.end(run_id)

    assert (await wait).is_terminal
    assert set(scripted.requests) == {"GET /v1/ws"}


async def test_many_waits_go_on_by_long_poll(scripted: Scripted, client: AsyncClient) -> None:
    scripted.refuse_websocket = 404
    ids = [str(uuid4()) for _ in range(120)]
    for run_id in ids[:100]:
        scripted.runs[run_id] = a_run(run_id)
    waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids]
    await scripted.until(lambda: len(scripted.requests) > 100)

    for run_id in ids:
        await scripted.end(run_id)

    assert all(run.is_terminal for run in await asyncio.gather(*waits))


async def test_a_watch_goes_on_by_long_poll(scripted: Scripted, client: AsyncClient) -> None:
    scripted.refuse_websocket = 404
    ids = [str(uuid4()) for _ in range(3)]
    for run_id in ids:
        scripted.runs[run_id] = a_run(run_id)

    heard = []
    async with asyncio.timeout(40):
        async with client.watch(*ids) as watch:
            for run_id in ids:
                await scripted.end(run_id)
            heard = [run.run_id async for run in watch]

    assert sorted(heard) == sorted(ids)


async def test_a_projects_watch_goes_on_from_the_time_of_its_cursor(scripted: Scripted, client: AsyncClient) -> None:
    from runstore.core.cursor import Place
    from runstore.core.event import EntryId
    from runstore.wire.cursor import encode_cursor

    scripted.refuse_websocket = 404
    asked: list[str] = []

    def listing(request: web.Request) -> web.Response:
        asked.append(request.query.get("finished_after", ""))
        return web.json_response({"runs": [], "next_cursor": None})

    scripted.answer = lambda request: listing(request) if request.path == "/v1/runs" else None
    at_ten = EntryId(1_777_370_400_000, 0)
    places = Place(partition=0, epoch=b"e", n=3, folded=at_ten), Place(partition=1, epoch=b"e")
    async with asyncio.timeout(40):
        async with client.watch(project_name="forecasts", cursor=encode_cursor(places)):
            pass

    assert [since for since in asked if since] == ["2026-04-28T09:59:30+00:00"]


async def test_a_watch_of_each_transition_by_long_poll_repeats_nothing(scripted: Scripted, client: AsyncClient) -> None:
    scripted.refuse_websocket = 404
    run_id = str(uuid4())
    path = f"GET /v1/runs/{run_id}"
    scripted.runs[run_id] = a_run(run_id, status="pending", started_at=None)

    async with asyncio.timeout(40):
        watch = client.watch(run_id[:8], events="all")
        heard = [(await anext(watch)).status.value]
        await scripted.until(lambda: scripted.requests.count(path) >= 2)
        scripted.runs[run_id] = a_run(run_id)
        heard.append((await anext(watch)).status.value)
        await scripted.end(run_id)
        heard += [run.status.value async for run in watch]

    assert heard == ["pending", "running", "success"]


@pytest.mark.parametrize(
    ("read", "heard"),
    [("pending", ["pending", "running", "running", "success"]), ("running", ["running", "running", "success"])],
)
async def test_what_was_read_and_comes_again_by_the_stream_is_not_handed_out_twice(
    scripted: Scripted, client: AsyncClient, read: str, heard: list[str]
) -> None:
    scripted.refuse_websocket = 404
    run_id = str(uuid4())
    running = a_run(run_id)
    before = a_run(run_id, status=read, started_at=running.started_at if read == "running" else None)
    await scripted.end(run_id)
    first = {"status": "running", "at": running.started_at, "attempt": 1}
    again = {"status": "running", "at": "2026-04-28T10:00:00.500000+00:00", "attempt": 2}
    told = [{"status": "pending", "at": "2026-04-28T09:00:00+00:00"}, first, again, {"status": "success"}]
    stream = "".join(f"event: transition\nid: {n}\ndata: {json.dumps(data)}\n\n" for n, data in enumerate(told))

    def answer(request: web.Request) -> web.Response | None:
        if request.path.endswith("/events"):
            return web.Response(text=stream, content_type="text/event-stream")
        if request.path.startswith("/v1/runs/") and "after" not in request.query:
            # the place is from before the run was recorded
            return web.json_response(text=before.to_json().decode(), headers={"Runstore-Cursor": "place"})
        return None

    scripted.answer = answer
    async with asyncio.timeout(40):
        runs = [run async for run in client.watch(run_id, events="all")]

    assert [run.status.value for run in runs] == heard


async def test_a_websocket_is_tried_again_after_a_while(scripted: Scripted) -> None:
    scripted.refuse_websocket = 404
    run_id = str(uuid4())
    scripted.runs[run_id] = a_run(run_id)
    from msgspec.structs import replace

    async with AsyncClient(scripted.url, config=replace(QUICK, websocket_retry_s=0.05)) as client:
        wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
        await scripted.until(lambda: scripted.requests.count("GET /v1/ws") >= 2)
        scripted.refuse_websocket = None
        await scripted.until(waiting_on(scripted, run_id))
        await scripted.end(run_id)

        assert (await wait).is_terminal


async def test_a_wait_that_is_over_says_so_and_is_no_longer_asked_for(scripted: Scripted, client: AsyncClient) -> None:
    run_id = str(uuid4())
    other = asyncio.create_task(client.wait(run_id))
    await scripted.until(waiting_on(scripted, run_id))

    with pytest.raises(WaitTimeout, match=run_id) as raised:
        await client.wait(run_id, timeout_s=0.05)
    other.cancel()

    assert isinstance(raised.value, TimeoutError)
    await scripted.until(lambda: scripted.messages[-1]["type"] == "unsubscribe")


async def test_a_gateway_that_was_never_there_is_told_as_unreachable(scripted: Scripted) -> None:
    await scripted.stop()
    from msgspec.structs import replace

    async with AsyncClient(scripted.url, config=replace(QUICK, give_up_s=0.2, retry_for_s=0.1)) as client:
        with pytest.raises(GatewayUnreachable):
            await client.wait(str(uuid4()))
        with pytest.raises(GatewayUnreachable):
            await client.get_run(str(uuid4()))


async def test_closing_the_client_ends_its_waits(scripted: Scripted) -> None:
    client = AsyncClient(scripted.url, config=QUICK)
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id))
    await scripted.until(waiting_on(scripted, run_id))

    await client.close()
    await client.close()

    with pytest.raises(GatewayUnreachable):
        await wait


async def test_an_error_about_one_run_spoils_no_other(scripted: Scripted, client: AsyncClient) -> None:
    ids = [str(uuid4()) for _ in range(20)]
    bad = ids[13]

    async def refuse_bad(socket: web.WebSocketResponse, asked: dict[str, Any]) -> None:
        if bad in asked["run_ids"]:
            said = {"type": "error", "id": asked["id"], "code": "forbidden", "detail": "not yours"}
            await scripted.send(socket, said)
        else:
            await scripted.accept(socket, asked)

    scripted.on_subscribe = refuse_bad
    waits = {run_id: asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids}
    good = [run_id for run_id in ids if run_id != bad]
    await scripted.until(waiting_on(scripted, *good))
    for run_id in good:
        await scripted.end(run_id)

    assert {(await waits[run_id]).run_id for run_id in good} == set(good)
    with pytest.raises(Exception, match="not yours"):
        await waits[bad]


async def test_a_subscription_that_cannot_stand_now_is_asked_for_again(scripted: Scripted, client: AsyncClient) -> None:
    ended = await scripted.end(str(uuid4()))
    refusals = 2

    async def busy(socket: web.WebSocketResponse, asked: dict[str, Any]) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            said = {"type": "error", "id": asked["id"], "code": "store_unavailable", "detail": "away"}
            await scripted.send(socket, said)
        else:
            await scripted.accept(socket, asked)

    scripted.on_subscribe = busy

    assert await client.wait(ended.run_id, timeout_s=40) == ended
    assert len(scripted.messages) == 3


async def test_a_watch_hands_out_each_transition_once_over_lost_connections(
    scripted: Scripted, client: AsyncClient
) -> None:
    run_id = str(uuid4())
    heard: list[Run] = []
    watch = client.watch(run_id, events="all")
    await scripted.until(waiting_on(scripted, run_id))
    await scripted.tell(a_run(run_id, status="pending", started_at=None))
    heard.append(await anext(watch))
    await scripted.tell(a_run(run_id))
    heard.append(await anext(watch))

    await scripted.cut()
    await scripted.until(lambda: not scripted.subscriptions)
    await scripted.until(waiting_on(scripted, run_id))
    await scripted.end(run_id)
    heard += [run async for run in watch]

    assert [run.status.value for run in heard] == ["pending", "running", "success"]
    assert scripted.messages[-1]["cursor"] == "2"


async def test_a_watch_of_a_prefix_that_matches_nothing_says_so(scripted: Scripted, client: AsyncClient) -> None:
    async def refuse(socket: web.WebSocketResponse, asked: dict[str, Any]) -> None:
        said = {"type": "error", "id": asked["id"], "code": "run_not_found", "detail": "no run begins with 6666"}
        await scripted.send(socket, said)

    scripted.on_subscribe = refuse

    with pytest.raises(RunNotFound, match="6666"):
        await anext(client.watch("6666"))


async def test_a_reset_of_a_project_is_caught_up_from_the_listing(scripted: Scripted, client: AsyncClient) -> None:
    missed = a_run(status="success", finished_at="2026-04-28T10:00:01+00:00")
    scripted.runs[missed.run_id] = missed

    def listing(request: web.Request) -> web.Response | None:
        if request.path != "/v1/runs":
            return None
        import msgspec

        assert request.query["finished_after"] == "2026-04-28T09:59:00+00:00"
        item = {**msgspec.to_builtins(missed), "created_at": "2026-04-28T10:00:00+00:00", "tags": []}
        del item["output"]
        return web.json_response({"runs": [item], "next_cursor": None})

    scripted.answer = listing
    async with asyncio.timeout(40):
        async with client.watch(project_name="forecasts") as watch:
            for socket, asked in scripted.subscriptions.items():
                for name in asked:
                    said = {"type": "reset", "id": name, "since": "2026-04-28T09:59:00+00:00", "detail": "too old"}
                    await scripted.send(socket, said)
            assert await anext(watch) == missed
            live = await scripted.end(str(uuid4()))
            assert await anext(watch) == live


async def test_a_slow_reader_loses_nothing(scripted: Scripted) -> None:
    from msgspec.structs import replace

    async with AsyncClient(scripted.url, config=replace(QUICK, buffer_items=5)) as client:
        ids = [str(uuid4()) for _ in range(30)]
        async with client.watch(*ids) as watch:
            for run_id in ids:
                await scripted.end(run_id)
            heard = [run.run_id async for run in watch]

    assert sorted(heard) == sorted(ids)
    assert len(set(heard)) == len(ids)


async def test_a_watch_that_is_dropped_is_listened_for_no_longer(scripted: Scripted, client: AsyncClient) -> None:
    ended = await scripted.end(str(uuid4()))
    async for run in client.watch(ended.run_id, str(uuid4())):
        assert run == ended
        break

    await scripted.until(lambda: scripted.messages[-1]["type"] == "unsubscribe")


async def test_progress_is_told_to_whoever_asked(scripted: Scripted, client: AsyncClient) -> None:
    run_id = str(uuid4())
    told: list[Any] = []
    watch = client.watch(run_id, events="all", on_progress=lambda which, progress: told.append((which, progress)))
    await scripted.until(waiting_on(scripted, run_id))
    for socket, asked in scripted.subscriptions.items():
        for name in asked:
            progress = {"fraction": 0.4, "message": "fitting"}
            await scripted.send(socket, {"type": "progress", "id": name, "run_id": run_id, "progress": progress})
    await scripted.end(run_id)

    assert [run.status.value async for run in watch] == ["success"]
    assert [(which, progress.fraction) for which, progress in told] == [(run_id, 0.4)]


async def test_what_is_not_known_is_left_out_of_account(scripted: Scripted, client: AsyncClient) -> None:
    run_id = str(uuid4())
    wait = asyncio.create_task(client.wait(run_id, timeout_s=40))
    await scripted.until(waiting_on(scripted, run_id))
    for socket, asked in scripted.subscriptions.items():
        await socket.send_str("no json")
        await socket.send_str('{"type":"news of a later version","id":"1","x":[1]}')
        for name in asked:
            await scripted.send(socket, {"type": "error", "id": None, "code": "invalid_request", "detail": "?"})
            run = {**__import__("msgspec").to_builtins(a_run(run_id, status="success")), "later": {"field": 1}}
            await scripted.send(socket, {"type": "run", "id": name, "cursor": "1", "run": run, "later": 2})

    assert (await wait).status == "success"


async def test_what_cannot_be_a_run_id_is_never_sent(scripted: Scripted, client: AsyncClient) -> None:
    for text in ("xyz", "", "../../healthz", "666"):
        with pytest.raises(InvalidRunId):
            await client.get_run(text)
        with pytest.raises(InvalidRunId):
            await client.wait(text)
    with pytest.raises(InvalidRequest):
        client.watch()
    assert scripted.requests == []


async def test_an_ambiguous_prefix_names_its_candidates(scripted: Scripted, client: AsyncClient) -> None:
    candidates = [str(uuid4()), str(uuid4())]
    scripted.answer = lambda _: problem(409, "ambiguous_run_id", "two runs", candidates=candidates)

    with pytest.raises(AmbiguousRunId) as raised:
        await client.wait("6666", timeout_s=40)

    assert raised.value.candidates == tuple(candidates)
