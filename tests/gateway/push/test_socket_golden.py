"""A run heard over a websocket, and every message of the protocol."""

import asyncio
import json

import aiohttp
import pytest
from multidict import CIMultiDict

from runstore.core.principal import Scope
from tests.gateway.push.stage import SOON_S, TOKEN, Stage, new_run


async def test_a_run_is_pushed_from_its_first_event_to_its_end(stage: Stage) -> None:
    run_id = new_run()
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id], events="all")
        subscribed = await socket.hear("subscribed")
        await stage.publish(run_id, "pending")
        await stage.publish(run_id, "running")
        await stage.publish(run_id, "success", output={"exit_code": 0, "stdout": "ok", "outputs": {"x": 1}})
        heard = await socket.hear_until("done")

    assert subscribed["run_ids"] == [run_id]
    assert subscribed["unknown"] == [run_id]
    assert [told["run"]["status"] for told in heard[:-1]] == ["pending", "running", "success"]
    assert heard[-1] == {"type": "done", "id": "a"}
    assert list(heard[-2]) == ["type", "id", "cursor", "run"]
    assert heard[-2]["run"]["output"]["outputs"] == {"x": 1}


async def test_the_trace_of_a_run_is_pushed_beside_it(stage: Stage) -> None:
    run_id, trace = new_run(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id])
        await socket.hear("subscribed")
        await socket.subscribe("b", project_name="forecasts")
        await socket.hear("subscribed")
        await stage.publish(run_id, "running", traceparent=trace)
        await stage.publish(run_id, "success")
        heard = [told for told in [await socket.hear() for _ in range(3)] if told["type"] == "run"]

    assert {told["id"]: told["traceparent"] for told in heard} == {"a": trace, "b": trace}
    assert all("traceparent" not in told["run"] for told in heard)


async def test_what_is_pushed_is_byte_for_byte_what_get_run_answers(stage: Stage) -> None:
    run_id = new_run()
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id])
        await socket.hear("subscribed")
        await stage.publish(run_id, "success", output={"stdout": "ü" * 5000, "outputs": [1, 2.50]})
        async with asyncio.timeout(SOON_S):
            message = await socket.ws.receive()
        _, body, _ = await stage.get(f"/v1/runs/{run_id}")

    assert message.data.encode().endswith(b'"run":' + body + b"}")


async def test_a_run_that_has_ended_is_pushed_right_after_subscribed(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "failed", error_message="no data")
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id])
        heard = await socket.hear_until("done")

    assert [told["type"] for told in heard] == ["subscribed", "run", "done"]
    assert heard[0]["unknown"] == []
    assert heard[1]["run"]["error_message"] == "no data"


async def test_terminal_subscribers_hear_no_step_on_the_way(stage: Stage) -> None:
    run_id = new_run()
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id])
        await socket.hear("subscribed")
        await stage.publish(run_id, "running", progress={"fraction": 0.5})
        await stage.publish(run_id, "cancelled")
        heard = await socket.hear_until("done")

    assert [told["run"]["status"] for told in heard[:-1]] == ["cancelled"]


async def test_a_large_output_is_pushed_whole_and_may_be_left_out(stage: Stage) -> None:
    run_id, text = new_run(), "x" * 300_000
    async with stage.socket() as socket:
        await socket.subscribe("with", run_ids=[run_id])
        await socket.subscribe("without", run_ids=[run_id], output=False)
        await socket.hear("subscribed")
        await socket.hear("subscribed")
        await stage.publish(run_id, "success", output={"stdout": text})
        heard = {(told["id"], told["type"]): told for told in [await socket.hear() for _ in range(4)]}

    assert heard["with", "run"]["run"]["output"]["stdout"] == text
    assert heard["without", "run"]["run"]["output"] is None
    assert ("with", "done") in heard
    assert ("without", "done") in heard


async def test_a_prefix_is_resolved_and_named_once_with_its_full_id(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "running")
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id[:8].upper(), run_id.replace("-", ""), run_id])
        subscribed = await socket.hear("subscribed")

    assert subscribed["run_ids"] == [run_id]


async def test_a_project_is_heard_from_subscribed_on_and_never_done(stage: Stage) -> None:
    before, after, other = new_run(), new_run(), new_run()
    await stage.publish(before, "success")
    async with stage.socket() as socket:
        await socket.subscribe("p", project_name="forecasts")
        await socket.hear("subscribed")
        await stage.publish(other, "success", project_name="elsewhere")
        await stage.publish(after, "success")
        told = await socket.hear("run")
        await socket.tell(type="unsubscribe", id="p")
        await socket.subscribe("p", project_name="forecasts")
        again = await socket.hear()

    assert told["run"]["run_id"] == after
    assert again["type"] == "subscribed"


async def test_progress_comes_with_all_only_and_has_no_cursor(stage: Stage) -> None:
    run_id = new_run()
    async with stage.socket() as socket:
        await socket.subscribe("all", run_ids=[run_id], events="all")
        await socket.subscribe("terminal", run_ids=[run_id])
        await socket.hear("subscribed")
        await socket.hear("subscribed")
        await stage.publish(run_id, "running")
        await socket.hear("run")
        await stage.publish(run_id, "running", progress={"fraction": 0.4, "message": "fitting"})
        told = await socket.hear()

    assert told == {
        "type": "progress",
        "id": "all",
        "run_id": run_id,
        "progress": {"fraction": 0.4, "message": "fitting"},
    }


async def test_after_unsubscribe_nothing_more_is_heard_of_it(stage: Stage) -> None:
    left, kept = new_run(), new_run()
    async with stage.socket() as socket:
        await socket.subscribe("left", run_ids=[left])
        await socket.subscribe("kept", run_ids=[kept])
        await socket.hear("subscribed")
        await socket.hear("subscribed")
        await socket.tell(type="unsubscribe", id="left")
        await socket.tell(type="unsubscribe", id="nothing")
        error = await socket.hear("error")
        await stage.publish(left, "success")
        await stage.publish(kept, "success")
        heard = await socket.hear_until("done")

    assert (error["id"], error["code"]) == ("nothing", "invalid_request")
    assert {told["id"] for told in heard} == {"kept"}


async def test_the_token_may_come_as_a_subprotocol(stage: Stage) -> None:
    url, offered = stage.gateway.url + "/v1/ws", ("runstore.v1", f"runstore.bearer.{TOKEN}")
    async with stage.http.ws_connect(url, protocols=offered) as ws:
        chosen = ws.protocol
        await ws.send_str(json.dumps({"type": "subscribe", "id": "a", "project_name": "forecasts"}))
        told = json.loads((await ws.receive(timeout=SOON_S)).data)

    assert chosen == "runstore.v1"
    assert told["type"] == "subscribed"


async def test_an_ordinary_handshake_is_nothing_to_warn_of(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with stage.socket() as socket:
        await socket.subscribe(project_name="forecasts")
        await socket.hear("subscribed")

    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


async def test_subprotocols_may_come_in_several_lines(stage: Stage) -> None:
    offered = [("Sec-WebSocket-Protocol", f"runstore.bearer.{TOKEN}"), ("Sec-WebSocket-Protocol", "runstore.v1")]
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers = CIMultiDict([*upgrade.items(), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), *offered])
    async with stage.http.get(stage.gateway.url + "/v1/ws", headers=headers) as answer:
        chosen = answer.headers.getall("Sec-WebSocket-Protocol")

    assert answer.status == 101
    assert chosen == ["runstore.v1"]


async def test_a_run_out_of_reach_is_unknown_and_never_pushed(stage: Stage) -> None:
    theirs, ours = new_run(), new_run()
    token = await stage.tokens.make("token-of-ours-alone-0001", scopes=(Scope.READ,), projects=("ours",))
    await stage.publish(theirs, "success", project_name="theirs")
    async with stage.socket(token) as socket:
        await socket.subscribe("a", run_ids=[theirs])
        subscribed = await socket.hear("subscribed")
        await socket.subscribe("prefix", run_ids=[theirs[:8]])
        prefix = await socket.hear("error")
        await socket.subscribe("project", project_name="theirs")
        project = await socket.hear("error")
        await socket.subscribe("b", run_ids=[ours, new_run()])
        await socket.hear("subscribed")
        await stage.publish(theirs, "success", project_name="theirs")
        await stage.publish(ours, "success", project_name="ours")
        told = await socket.hear()

    assert subscribed["unknown"] == [theirs]
    assert (prefix["id"], prefix["code"]) == ("prefix", "run_not_found")
    assert project["code"] == "forbidden"
    assert told["run"]["run_id"] == ours


async def test_a_run_that_begins_out_of_reach_is_not_pushed_to_one_who_named_its_id(stage: Stage) -> None:
    theirs, ours = new_run(), new_run()
    token = await stage.tokens.make("token-of-ours-alone-0002", scopes=(Scope.READ,), projects=("ours",))
    async with stage.socket(token) as socket:
        await socket.subscribe(run_ids=[theirs, ours], events="all")
        subscribed = await socket.hear("subscribed")
        await stage.publish(theirs, "running", project_name="theirs", progress={"fraction": 0.5})
        await stage.publish(theirs, "success", project_name="theirs")
        await stage.publish(ours, "success", project_name="ours")
        told = await socket.hear()

    assert subscribed["unknown"] == [theirs, ours]
    assert (told["type"], told["run"]["run_id"]) == ("run", ours)


async def test_sockets_are_told_that_the_gateway_stops(stage: Stage) -> None:
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[new_run()])
        await socket.hear("subscribed")
        stopping = asyncio.create_task(stage.gateway.stop())
        code = await socket.closed()
        await stopping

    assert code == aiohttp.WSCloseCode.GOING_AWAY
