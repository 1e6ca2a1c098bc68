"""Each limit: what it is set to so that a test runs into it at once, and how to. What comes of it is told in words."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from tests.gateway.builders import ADMIN, RUN_ID, Reply, Site
from tests.waiting import happens

SOON_S: Final = 30.0
"""How long anything may take before a test gives up; on a busy machine all of it is slow."""

RunInto = Callable[[Site], Awaitable[str]]


class Limit(msgspec.Struct, frozen=True):
    """A limit: the settings under which to run into it, and how. Without settings it is none that can be set."""

    run_into: RunInto
    settings: Mapping[str, Any] = {}


def told(reply: Reply) -> str:
    """Say what an answer was."""
    return f"{reply.status} `{reply.code}`"


@asynccontextmanager
async def wire(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    url = URL(site.gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def head(first: str, *lines: str) -> bytes:
    return "\r\n".join([f"{first} HTTP/1.1", "Host: x", f"Authorization: Bearer {ADMIN}", *lines, "", ""]).encode()


async def to_the_end(site: Site, *pieces: bytes) -> str:
    """Send pieces, and say what came until the gateway closed the connection."""
    async with wire(site) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
        async with asyncio.timeout(SOON_S):
            answer = await reader.read()
    return f"{told(read(answer))}, closed" if answer else "closed"


def read(answer: bytes) -> Reply:
    head, _, body = answer.partition(b"\r\n\r\n")
    return Reply(int(head.split(b" ")[1]), None, body)


async def hear(ws: aiohttp.ClientWebSocketResponse) -> Any:
    async with asyncio.timeout(SOON_S):
        return json.loads(await ws.receive_str())


async def error_of(ws: aiohttp.ClientWebSocketResponse) -> str:
    """Say what the next error was."""
    while (message := await hear(ws))["type"] != "error":
        pass
    return f"`error` `{message['code']}`"


async def closed(ws: aiohttp.ClientWebSocketResponse) -> str:
    """Say how a websocket was closed."""
    async with asyncio.timeout(SOON_S):
        while not ws.closed and (await ws.receive()).type not in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}:
            pass
    return f"closed with {ws.close_code}" if ws.close_code != aiohttp.WSCloseCode.ABNORMAL_CLOSURE else "closed"


def opened(site: Site, token: str = ADMIN, **options: Any) -> Any:
    offered = ["runstore.v1", f"runstore.bearer.{token}"]
    return site.session.ws_connect(site.gateway.url + "/v1/ws", protocols=offered, **options)


def subscribe(**asked: Any) -> str:
    return json.dumps({"type": "subscribe", "id": "a", **asked})


def to_run(**body: Any) -> RunInto:
    async def run_into(site: Site) -> str:
        return told(await site.post("/v1/runs", {"project_name": "forecasts", **body}))

    return run_into


def to_publish(**event: Any) -> RunInto:
    async def run_into(site: Site) -> str:
        event.setdefault("project_name", "forecasts")
        return told(await site.post(f"/v1/runs/{RUN_ID}/transitions", {"status": "success", **event}))

    return run_into


def to_get(path: str, **options: Any) -> RunInto:
    async def run_into(site: Site) -> str:
        await site.publish(RUN_ID, status="success", output={"stdout": "x"})
        return told(await site.get(path, **options))

    return run_into


def to_post(path: str, body: Any) -> RunInto:
    async def run_into(site: Site) -> str:
        await site.publish(RUN_ID)
        return told(await site.post(path, body))

    return run_into


def to_send(*pieces: bytes) -> RunInto:
    async def run_into(site: Site) -> str:
        return await to_the_end(site, *pieces)

    return run_into


def to_say(*messages: str) -> RunInto:
    async def run_into(site: Site) -> str:
        async with opened(site) as ws:
            for message in messages:
                await ws.send_str(message)
            return await error_of(ws)

    return run_into


async def refused(ask: Callable[[], Awaitable[Reply]]) -> str:
    """Ask until something else is answered than before, and say what."""
    first = await ask()
    while (reply := await ask()).status == first.status:
        pass
    return told(reply)


async def ask_too_often(site: Site) -> str:
    return await refused(lambda: site.get("/v1/runs"))


async def ask_too_often_as_nobody(site: Site) -> str:
    return await refused(lambda: site.get("/v1/runs", token="nobodys"))


async def connect_too_often(site: Site) -> str:
    async with wire(site), wire(site):
        return await to_the_end(site, head("GET /healthz"))


async def hold_too_much(site: Site) -> str:
    run_id = await site.publish()
    async with opened(site), opened(site):
        return told(await site.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=60"}))


async def send_two_bodies(site: Site) -> str:
    reserve = site.gateway.services.reserve
    async with wire(site) as (_, writer):
        writer.write(head("POST /v1/runs", "Content-Length: 100000") + b"{")
        await happens(lambda: reserve._held_bytes > 0, SOON_S)
        return told(await site.post("/v1/runs", {"project_name": "forecasts"}))


async def drip(site: Site) -> str:
    """Send a body that never ends, a byte at a time."""
    async with wire(site) as (reader, writer):
        writer.write(head("POST /v1/runs", "Transfer-Encoding: chunked"))
        answer = asyncio.create_task(reader.readuntil(b"}"))
        async with asyncio.timeout(SOON_S):
            while not answer.done():
                writer.write(b"1\r\n{\r\n")
                await asyncio.wait({answer}, timeout=0.01)
    return f"{told(read(answer.result()))}, closed"


async def read_nothing(site: Site) -> str:
    run_id = await site.publish(status="success", output={"stdout": "x" * 16_000_000})
    async with wire(site) as (_, writer):
        writer.write(head(f"GET /v1/runs/{run_id}/output"))
        server = site.gateway._runner.server  # type: ignore[union-attr]
        await happens(lambda: len(server.connections) > 0, SOON_S)
        before = len(server.connections)
        await happens(lambda: len(server.connections) < before, SOON_S)
    return "closed"


async def subscribe_twice(site: Site) -> str:
    """Subscribe to a few runs on each of two websockets of one token."""
    runs = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(4)]
    async with opened(site) as first, opened(site) as second:
        await first.send_str(subscribe(run_ids=runs[:2]))
        assert (await hear(first))["type"] == "subscribed"
        await second.send_str(subscribe(run_ids=runs[2:]))
        return await error_of(second)


async def say_too_much(site: Site) -> str:
    async with opened(site) as ws:
        await ws.send_str(json.dumps({"type": "unsubscribe", "id": "x" * 1100}))
        return f"{await error_of(ws)}, {await closed(ws)}"


async def be_told_too_much(site: Site) -> str:
    async with opened(site) as ws:
        # in one piece, so that all of it is read before any of it is answered
        assert ws._writer is not None
        ws._writer.transport.write(frame(b'{"type":"unsubscribe","id":"nothing"}') * 5)
        return await closed(ws)


def frame(text: bytes) -> bytes:
    """Make a short text frame, masked with zeros."""
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text


async def be_streamed_too_much(site: Site) -> str:
    run_id = await site.publish()
    headers = {"Authorization": f"Bearer {ADMIN}", "Accept": "text/event-stream"}
    async with site.session.get(f"{site.gateway.url}/v1/runs/{run_id}/events", headers=headers) as response:
        await response.content.readuntil(b"\n\n")
        await site.publish(run_id, status="failed", error_message="x" * 1000)
        try:
            async with asyncio.timeout(SOON_S):
                rest = await response.content.read()
        except aiohttp.ClientError:
            return "closed"
    return rest.decode()


async def answer_no_ping(site: Site) -> str:
    async with opened(site, autoping=False, autoclose=False) as ws:
        return await closed(ws)


async def ask_for_two_ranges(site: Site) -> str:
    return await to_get(f"/v1/runs/{RUN_ID}/output", headers={"Range": "bytes=0-1,3-4"})(site)


async def let_a_tool_wait(site: Site) -> str:
    called = {"name": "get_run", "arguments": {"run_id": RUN_ID, "wait_s": 51}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
    reply = await site.post("/mcp", message, headers={"Accept": "application/json, text/event-stream"})
    (line,) = [line for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    result = json.loads(line.removeprefix("data: "))["result"]
    assert result["isError"]
    return f"`isError` `{result['structuredContent']['error']}`"


SETTABLE: Final[Mapping[str, Limit]] = {
    "requests_per_s": Limit(ask_too_often, {"requests_per_s": 0.01, "requests_burst_s": 300}),
    "stranger_requests_per_s": Limit(
        ask_too_often_as_nobody, {"stranger_requests_per_s": 0.01, "requests_burst_s": 300}
    ),
    "requests_burst_s": Limit(ask_too_often, {"requests_burst_s": 200, "requests_per_s": 0.01}),
    "connections_per_address": Limit(connect_too_often, {"connections_per_address": 2}),
    "connections_per_token": Limit(hold_too_much, {"connections_per_token": 2}),
    "runs_per_token": Limit(subscribe_twice, {"runs_per_token": 3}),
    "max_run_body_bytes": Limit(to_run(tags=["x" * 60] * 20), {"max_run_body_bytes": 1000}),
    "max_inputs_bytes": Limit(to_run(inputs={"text": "x" * 1000}), {"max_inputs_bytes": 1000}),
    "max_event_body_bytes": Limit(to_publish(worker="x" * 200), {"max_event_body_bytes": 100}),
    "max_event_bytes": Limit(to_publish(error_message="x" * 1000), {"max_event_bytes": 1000}),
    "max_output_bytes": Limit(to_publish(output={"stdout": "x" * 1000}), {"max_output_bytes": 1000}),
    "max_json_depth": Limit(to_run(inputs={"a": [[[1]]]}), {"max_json_depth": 4}),
    "max_bodies_bytes": Limit(send_two_bodies, {"max_bodies_bytes": 100_000}),
    "max_head_line_bytes": Limit(to_send(head("GET /" + "x" * 2000)), {"max_head_line_bytes": 1000}),
    "max_headers": Limit(to_send(head("GET /healthz", *["X: y"] * 10)), {"max_headers": 10}),
    "max_head_bytes": Limit(to_send(head("GET /healthz", *["X: " + "y" * 500] * 10)), {"max_head_bytes": 2000}),
    "head_timeout_s": Limit(to_send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n"), {"head_timeout_s": 0.1}),
    "body_idle_s": Limit(to_send(head("POST /v1/runs", "Content-Length: 100") + b"{"), {"body_idle_s": 0.1}),
    "body_timeout_s": Limit(drip, {"body_timeout_s": 0.3}),
    "keepalive_s": Limit(to_send(), {"keepalive_s": 0.1}),
    "write_stall_s": Limit(read_nothing, {"write_stall_s": 0.3}),
    "max_wait_s": Limit(to_get(f"/v1/runs/{RUN_ID}", headers={"Prefer": "wait=8"}), {"max_wait_s": 7}),
    "max_message_bytes": Limit(say_too_much, {"max_message_bytes": 1000}),
    "max_run_ids": Limit(to_say(subscribe(run_ids=[RUN_ID] * 4)), {"max_run_ids": 3}),
    "max_subscriptions": Limit(
        to_say(subscribe(project_name="forecasts"), subscribe(id="b", project_name="forecasts")),
        {"max_subscriptions": 1},
    ),
    "outbox_bytes": Limit(be_told_too_much, {"outbox_bytes": 20}),
    "stream_bytes": Limit(be_streamed_too_much, {"stream_bytes": 500}),
    "heartbeat_s": Limit(answer_no_ping, {"heartbeat_s": 0.2}),
}
"""By setting."""

FIXED: Final[Mapping[str, Limit]] = {
    "runs in a page of a listing": Limit(to_get("/v1/runs?limit=201")),
    "tags of a run": Limit(to_run(tags=[str(number) for number in range(21)])),
    "characters of a tag": Limit(to_run(tags=["x" * 65])),
    "characters of an `Idempotency-Key`": Limit(
        lambda site: _key(site, "x" * 256),
    ),
    "characters of a token": Limit(to_get("/v1/runs", token="x" * 8193)),
    "characters of a subscription's `id`": Limit(to_say(subscribe(id="x" * 129, project_name="forecasts"))),
    "body of a request to cancel, or for a run token": Limit(
        to_post(f"/v1/runs/{RUN_ID}/cancel", {"reason": "x" * 64 * 1024})
    ),
    "ranges in a `Range`": Limit(ask_for_two_ranges),
    "seconds that a tool for agents waits": Limit(let_a_tool_wait),
}
"""By what the page calls it."""


async def _key(site: Site, key: str) -> str:
    return told(await site.post("/v1/runs", {"project_name": "forecasts"}, headers={"Idempotency-Key": key}))
