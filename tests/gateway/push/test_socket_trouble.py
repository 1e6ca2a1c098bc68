"""What a client may do wrong, and what becomes of its connection."""

import asyncio
import gc
import json
import select
import socket as sockets
from contextlib import AsyncExitStack

import aiohttp
import pytest

from runstore.core.principal import Scope
from tests.faults.swarm import HELLO, TEXT, masked
from tests.gateway.push.stage import SOON_S, SUBPROTOCOL, TOKEN, Stage, new_run, stuck, until, websockets


@pytest.mark.parametrize(
    ("text", "subscription_id"),
    [
        ("", None),
        ("{", None),
        ("[]", None),
        ('{"type":"dance","id":"a"}', "a"),
        ('{"id":"a","run_ids":[]}', "a"),
        ('{"type":"subscribe"}', None),
        ('{"type":"subscribe","id":7,"project_name":"p"}', None),
        ('{"type":"subscribe","id":"","project_name":"p"}', ""),
        ('{"type":"subscribe","id":"a"}', "a"),
        ('{"type":"subscribe","id":"a","run_ids":[]}', "a"),
        ('{"type":"subscribe","id":"a","run_ids":["xyz!"]}', "a"),
        ('{"type":"subscribe","id":"a","run_ids":["abc"]}', "a"),
        ('{"type":"subscribe","id":"a","run_ids":["abcdef"]}', "a"),
        ('{"type":"subscribe","id":"a","run_ids":[1]}', "a"),
        ('{"type":"subscribe","id":"a","run_ids":["abcd"],"project_name":"p"}', "a"),
        ('{"type":"subscribe","id":"a","project_name":"no good name"}', "a"),
        ('{"type":"subscribe","id":"a","project_name":"p","events":"some"}', "a"),
        ('{"type":"subscribe","id":"a","project_name":"p","output":"no"}', "a"),
        ('{"type":"subscribe","id":"a","project_name":"p","cursor":"nonsense"}', "a"),
        ('{"type":"subscribe","id":"a","project_name":"p","cursor":"é"}', "a"),
        ('{"type":"unsubscribe","id":"a"}', "a"),
        ('{"type":"subscribe","id":"\\ud800","project_name":"p"}', None),
        ("[" * 70 + "]" * 70, None),
    ],
)
async def test_a_broken_message_gets_an_error_and_the_connection_lives(
    stage: Stage, text: str, subscription_id: str | None
) -> None:
    async with stage.socket() as socket:
        await socket.ws.send_str(text)
        error = await socket.hear("error")
        await socket.subscribe("after", project_name="forecasts")
        after = await socket.hear()

    assert error["id"] == subscription_id
    assert error["code"]
    assert error["detail"]
    assert after["type"] == "subscribed"


async def test_each_limit_is_named_by_its_error(stage: Stage) -> None:
    async with stage.socket() as socket:
        await socket.subscribe("many", run_ids=["abcd"] * 1001)
        many = await socket.hear("error")
        for number in range(100):
            await socket.subscribe(str(number), project_name="forecasts")
        for _ in range(100):
            await socket.hear("subscribed")
        await socket.subscribe("more", project_name="forecasts")
        more = await socket.hear("error")
        await socket.subscribe("0", project_name="forecasts")
        twice = await socket.hear("error")
        await socket.ws.send_str("[" * 70 + "]" * 70)
        deep = await socket.hear("error")

    assert "1000" in many["detail"]
    assert "100" in more["detail"]
    assert "already" in twice["detail"]
    assert "64" in deep["detail"]


async def test_an_over_long_message_is_told_the_limit_and_closes_with_1009(stage: Stage) -> None:
    async with stage.socket() as socket:
        await socket.ws.send_str(json.dumps({"type": "unsubscribe", "id": "x" * 65_536}))
        error = await socket.hear("error")
        told = await socket.closed()
    async with stage.socket() as socket:
        await socket.ws.send_str("x" * 1_000_000)
        at_once = await socket.closed()

    assert "65536" in error["detail"]
    assert (told, at_once) == (1009, 1009)


async def test_a_binary_frame_closes_with_1003(stage: Stage) -> None:
    async with stage.socket() as socket:
        await socket.ws.send_bytes(b"{}")

        assert await socket.closed() == 1003


async def test_no_token_that_is_offered_gets_into_a_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    bearer = f"runstore.bearer.{TOKEN}"
    for offered in ((SUBPROTOCOL, bearer), ("other.v1", bearer)):
        async with stage.http.ws_connect(stage.gateway.url + "/v1/ws", protocols=offered):
            pass

    assert TOKEN not in caplog.text


@pytest.mark.parametrize("offered", [(), ("other.v1",), ("other.v1", f"runstore.bearer.{TOKEN}")])
async def test_without_our_subprotocol_the_websocket_closes_with_1002(stage: Stage, offered: tuple[str, ...]) -> None:
    async with stage.socket(protocols=offered) as socket:
        assert await socket.closed() == 1002


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer unknown-token-of-nobody"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "null"}, 403),
        ({}, 401),
    ],
)
async def test_who_may_not_enter_is_refused_before_the_upgrade(
    stage: Stage, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await stage.http.ws_connect(stage.gateway.url + "/v1/ws", protocols=(SUBPROTOCOL,), headers=headers)

    assert refused.value.status == status


async def test_the_gateways_own_origin_is_let_in(stage: Stage) -> None:
    async with stage.socket(headers={"Origin": stage.gateway.url}) as socket:
        await socket.subscribe(project_name="forecasts")

        assert (await socket.hear())["type"] == "subscribed"


async def test_a_plain_request_is_told_to_upgrade(stage: Stage) -> None:
    status, body, _ = await stage.get("/v1/ws")

    assert status == 426
    assert json.loads(body)["code"] == "upgrade_required"


async def test_a_revoked_token_closes_its_socket_with_4401_and_nothing_more_is_sent(stage: Stage) -> None:
    run_id = new_run()
    token = await stage.tokens.make("token-soon-to-be-revoked", scopes=(Scope.READ,))
    async with stage.socket(token) as socket, stage.socket() as other:
        await socket.subscribe(run_ids=[run_id])
        await other.subscribe(run_ids=[run_id])
        await socket.hear("subscribed")
        await other.hear("subscribed")
        await stage.tokens.revoke(token)
        code = await socket.closed()
        await stage.publish(run_id, "success")
        heard = await other.hear_until("done")

    assert code == 4401
    assert len(heard) == 2


async def test_a_slow_reader_is_closed_with_1013_while_others_hear_everything(stage: Stage) -> None:
    count, text = 150, "x" * 100_000
    async with stuck(stage) as never, stage.socket() as other:
        await other.subscribe("p", project_name="forecasts", output=False)
        await other.hear("subscribed")
        pushed, heard = [], []
        for _ in range(count):
            run_id = new_run()
            await stage.publish(run_id, "failed", error_message=text)
            pushed.append(run_id)
            heard.append((await other.hear("run"))["run"]["run_id"])
        never.resume()
        code = await never.socket.closed()

    assert heard == pushed
    assert code == 1013


async def test_one_who_never_reads_again_is_cut_off(stage: Stage) -> None:
    stage.configure_streams(close_s=0.3)
    async with stuck(stage):
        assert stage.open_streams == 1
        for _ in range(150):
            await stage.publish(new_run(), "failed", error_message="x" * 100_000, fold=False)

        await until(lambda: stage.open_streams == 0)


@pytest.mark.parametrize("how", ["outbox", "ping"])
async def test_nothing_is_kept_for_one_who_was_cut_off(stage: Stage, how: str) -> None:
    """By its full outbox, or by a ping that it does not answer while the kernel has room for all it is sent."""
    stage.configure_streams(close_s=0.1, **({"heartbeat_s": 2.0} if how == "ping" else {"outbox_bytes": 1024 * 1024}))
    with sockets.socket() as never:
        never.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 8192)
        await asyncio.to_thread(_subscribe_by_hand, never, stage.gateway.url)
        await until(lambda: stage.open_streams == 1 and len(stage.gateway.services.audiences) == 1)
        for _ in range(4 if how == "ping" else 100):
            await stage.publish(new_run(), "failed", error_message="x" * 100_000, fold=False)
        await until(lambda: stage.open_streams == 0)

        heard = select.poll()
        heard.register(never, 0)
        assert await asyncio.to_thread(heard.poll, 30_000)  # its kernel is told, though it reads nothing


async def test_a_half_open_connection_is_found_by_pings(stage: Stage) -> None:
    stage.configure_streams(heartbeat_s=0.3)
    async with stage.socket(autoping=False) as socket:
        async with asyncio.timeout(SOON_S):
            while (await socket.ws.receive()).type in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.TEXT):
                pass

        await until(lambda: stage.open_streams == 0)


async def test_those_who_came_within_a_second_are_not_all_pinged_in_the_same_moment(stage: Stage) -> None:
    stage.configure_streams(heartbeat_s=60.0)
    count = 20
    async with AsyncExitStack() as open_ones:
        for _ in range(count):
            await open_ones.enter_async_context(stage.socket())
        await until(lambda: stage.open_streams == count)
        due = [each._heartbeat_when for each in websockets() if each._heartbeat_when]

        assert len(set(due)) == len(due) == count


async def test_nothing_is_left_of_a_client_that_hangs_up(stage: Stage) -> None:
    for _ in range(20):
        async with stage.socket() as socket:
            await socket.subscribe("a", run_ids=[new_run()])
            await socket.subscribe("b", project_name="forecasts")
            await socket.hear("subscribed")
    await until(lambda: stage.open_streams == 0 and stage.tail.hub.interests == 0)

    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("socket-")])


async def test_a_lost_websocket_is_let_go_of_without_the_collector(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    gc.collect()
    before = len(websockets())
    request.addfinalizer(gc.enable)
    gc.disable()
    host, port = stage.gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HELLO.format(host=host, token=TOKEN).encode())
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: stage.open_streams == 1)
    held = len(websockets())

    writer.transport.abort()
    await until(lambda: stage.open_streams == 0 and len(websockets()) == before)

    assert held == before + 1


def _subscribe_by_hand(sock: sockets.socket, url: str) -> None:
    """Open a websocket, subscribe to the project and read nothing after the handshake."""
    host, port = url.removeprefix("http://").split(":")
    sock.connect((host, int(port)))
    sock.sendall(HELLO.format(host=host, token=TOKEN).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    sock.sendall(masked(TEXT, b'{"type":"subscribe","id":"n","project_name":"forecasts"}'))
