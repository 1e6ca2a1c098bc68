"""What a browser may open: from which pages, and that it takes every answer for nothing but data."""

import asyncio
import re
from typing import Any

import aiohttp
import pytest
from yarl import URL

from runstore.gateway.pages import get_dashboard
from runstore.gateway.routes import ROUTES
from tests.gateway.builders import ADMIN, RUN_ID, Reply, Site, site_over
from tests.gateway.limits import hear, opened, subscribe, wire

HARMLESS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "runstore",
}
"""The last of them tells no version, of us, aiohttp or Python."""
MARKUP = "<script>alert(1)</script>"


def assert_is_harmless(headers: Any, what: str) -> None:
    for name, value in HARMLESS.items():
        assert headers.getall(name, []) == [value], what


@pytest.fixture
async def run_id(site: Site) -> str:
    return await site.publish(RUN_ID, status="success", output={"stdout": MARKUP, "outputs": {"page": MARKUP}})


@pytest.mark.parametrize("token", [ADMIN, None], ids=["with a token", "without"])
async def test_every_answer_of_every_route_is_nothing_but_data(site: Site, run_id: str, token: str | None) -> None:
    for route in ROUTES:
        if route.handler is get_dashboard:
            continue  # the one page there is: tests/gateway/test_pages.py
        path = route.path.replace("{run_id}", run_id).replace("{name}", "page")
        for method in {"GET", "HEAD", "POST", "OPTIONS", route.method}:
            for accept in ("*/*", "text/event-stream", "text/html"):
                reply = await site.call(method, path, token=token, headers={"Accept": accept})

                assert_is_harmless(reply.headers, f"{method} {path} {accept}: {reply.status}")
                assert not reply.headers.get("Content-Type", "").startswith("text/html")


async def test_errors_and_what_changed_nothing_are_so_too(site: Site, run_id: str) -> None:
    etag = (await site.get(f"/v1/runs/{run_id}")).headers["ETag"]
    replies = {
        304: await site.get(f"/v1/runs/{run_id}", headers={"If-None-Match": etag}),
        206: await site.get(f"/v1/runs/{run_id}/output", headers={"Range": "bytes=0-3"}),
        404: await site.get("/" + MARKUP),
        405: await site.call("DELETE", "/v1/runs"),
        422: await site.get("/v1/runs/" + MARKUP.replace("/", "")),
        426: await site.get("/v1/ws"),
        403: await site.get("/v1/runs", headers={"Origin": "https://evil.example"}),
    }

    for status, reply in replies.items():
        assert reply.status == status
        assert_is_harmless(reply.headers, str(status))
        assert MARKUP.encode() not in reply.body or reply.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 3000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: y\r\n" + b"Z: y\r\n" * 400, 431),
        (b"GET / HTTP/1.1\r\n", 408),
    ],
)
async def test_so_is_what_is_said_before_there_is_a_request(site: Site, raw: bytes, status: int) -> None:
    config = {"head_timeout_s": 0.1 if status == 408 else 10.0, "max_head_line_bytes": 2000, "max_head_bytes": 2000}
    async with site_over(site.store, **config) as other, wire(other) as (reader, writer):
        writer.write(raw)
        head = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")[0].decode()

    assert re.match(rf"HTTP/1\.. {status} ", head)
    for name, value in HARMLESS.items():
        assert f"\r\n{name}: {value}" in head


def ports_of(url: str) -> tuple[str, int]:
    target = URL(url)
    assert target.host is not None
    assert target.port is not None
    return target.host, target.port


async def shake_hands(site: Site, *origins: str, host: str | None = None) -> int:
    """Open a websocket as a browser does, its token in a subprotocol; return the status of the answer."""
    async with wire(site) as (reader, writer):
        lines = [
            "GET /v1/ws HTTP/1.1",
            f"Host: {host or '{}:{}'.format(*ports_of(site.gateway.url))}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            f"Sec-WebSocket-Protocol: runstore.v1, runstore.bearer.{ADMIN}",
            *(f"Origin: {origin}" for origin in origins),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    return int(answer.split(b" ")[1])


PAGE = "https://runs.example"


LET_IN: list[tuple[str, ...]] = [(), ("http://{}",), (PAGE,)]
NOT_LET_IN: list[tuple[str, ...]] = [
    ("https://evil.example",),
    ("null",),
    ("",),
    ("file://",),
    (PAGE + ".evil.example",),
    ("https://evil.example#" + PAGE,),
    ("http://{}.evil.example",),
    ("http://{}@evil.example",),
    ("http://localhost:1",),
    (PAGE, "https://evil.example"),
    ("https://evil.example", PAGE),
    (f"{PAGE}, https://evil.example",),
]


async def test_a_websocket_is_opened_from_no_page_that_is_not_let_in_whatever_its_token(site: Site) -> None:
    async with site_over(site.store, allowed_origins=frozenset({PAGE})) as other:
        here = "{}:{}".format(*ports_of(other.gateway.url))

        answered = {
            origins: await shake_hands(other, *(origin.format(here) for origin in origins))
            for origins in LET_IN + NOT_LET_IN
        }

    assert answered == {**dict.fromkeys(LET_IN, 101), **dict.fromkeys(NOT_LET_IN, 403)}


async def test_behind_a_proxy_that_ends_tls_the_own_origin_is_that_of_the_host(site: Site) -> None:
    assert await shake_hands(site, PAGE, host="runs.example") == 101
    assert await shake_hands(site, PAGE, host="runs.example:443") == 101
    assert await shake_hands(site, PAGE, host="other.example") == 403


async def test_a_page_that_is_not_let_in_gets_no_stream_no_wait_and_no_tool_either(site: Site, run_id: str) -> None:
    evil = {"Origin": "https://evil.example"}
    replies: list[Reply] = [
        await site.get(f"/v1/runs/{run_id}/events", headers={**evil, "Accept": "text/event-stream"}),
        await site.get(f"/v1/runs/{run_id}", headers={**evil, "Prefer": "wait=5"}),
        await site.post("/v1/runs", {"project_name": "forecasts"}, headers=evil),
        await site.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers=evil),
    ]

    assert {(reply.status, reply.code) for reply in replies} == {(403, "forbidden")}


async def test_a_websocket_needs_its_token_in_the_handshake_and_takes_none_from_the_address(site: Site) -> None:
    for query in ("token", "access_token", "Authorization"):
        url = f"{site.gateway.url}/v1/ws?{query}={ADMIN}"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await site.session.ws_connect(url, protocols=["runstore.v1"])
        assert refused.value.status == 401
    async with opened(site) as ws:
        await ws.send_str(subscribe(project_name="forecasts"))
        assert (await hear(ws))["type"] == "subscribed"
