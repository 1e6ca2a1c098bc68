"""What no client of good will sends: every such request is answered or cut off, and never by a 500."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.builders import ADMIN, RUN_ID, Site, site_over, until
from tests.gateway.limits import wire

SWEEP = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def ask(site: Site, raw: bytes) -> bytes:
    """Send bytes, and read until the gateway closes or has nothing more to say for a while."""
    answer = b""
    async with wire(site) as (reader, writer):
        writer.write(raw)
        try:
            async with asyncio.timeout(0.25):
                while piece := await reader.read(65536):
                    answer += piece
        except (TimeoutError, ConnectionError):
            pass
    return answer


def target(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\r", b"%0d").replace(b"\n", b"%0a").replace(b" ", b"%20")


def request_line(method: bytes, path: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    head = [
        method + b" " + path + b" HTTP/1.1",
        b"Host: x",
        b"Connection: close",
        b"Authorization: Bearer " + ADMIN.encode(),
    ]
    if body:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, *headers, b"", body])


def assert_is_no_500(answer: bytes, raw: bytes) -> None:
    assert answer, raw
    for part in answer.split(b"HTTP/1.1 ")[1:]:
        status = int(part[:3])
        assert status < 500, (raw, part)
        if status >= 400:
            assert b"application/problem+json" in part, (raw, part)
            told = json.loads(part.split(b"\r\n\r\n", 1)[1])
            assert told["status"] == status
            assert told["detail"]


VALUES = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=20).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)),
    st.sampled_from(
        ["", "0", "-1", "9" * 30, "%", "%00", "2026-04-28", "2026-13-01", "0001-01-01", "٣", "AAAA", "gpQA"]
    ),
)
NAMES = st.sampled_from(
    ["limit", "cursor", "after", "status", "tag", "project_name", "commit_sha", "created_after", "finished_after", "x"]
)


async def test_no_query_makes_a_500(site: Site) -> None:
    @SWEEP
    @given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=3))
    async def sweep(pairs: list[tuple[str, str]]) -> None:
        raw = request_line(b"GET", b"/v1/runs?" + b"&".join(target(f"{name}={value}") for name, value in pairs))
        assert_is_no_500(await ask(site, raw), raw)

    await run(sweep)


async def test_no_address_makes_a_500(site: Site) -> None:
    @SWEEP
    @given(
        VALUES,
        st.sampled_from(["", "/output", "/output/{}", "/cancel", "/events", "/logs", "/transitions"]),
        st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]),
    )
    async def sweep(text: str, rest: str, method: str) -> None:
        raw = request_line(method.encode(), b"/v1/runs/" + target(text) + target(rest.format(text)))
        if method != "HEAD":
            assert_is_no_500(await ask(site, raw), raw)

    await run(sweep)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "project_name",
        "inputs",
        "parameters",
        "mode",
        "timeout_s",
        "commit_sha",
        "branch",
        "tags",
        "run_id",
        "status",
        "at",
        "output",
        "progress",
        "attempt",
        "error_message",
        "event_id",
        "worker",
        "traceparent",
        "x",
    ]
)


async def test_no_body_makes_a_500(site: Site) -> None:
    @SWEEP
    @given(st.dictionaries(FIELDS, JSON, max_size=4), st.booleans(), st.binary(max_size=3))
    async def sweep(fields: dict[str, object], to_run: bool, noise: bytes) -> None:
        fields.setdefault("project_name", "forecasts")
        fields.setdefault("status", "running")
        if to_run:
            fields.pop("status")
        path = b"/v1/runs" if to_run else b"/v1/runs/" + RUN_ID.encode() + b"/transitions"
        raw = request_line(b"POST", path, body=json.dumps(fields).encode() + noise)
        assert_is_no_500(await ask(site, raw), raw)

    await run(sweep)


HEADERS = st.sampled_from(
    [
        "Prefer",
        "If-None-Match",
        "Range",
        "If-Range",
        "Origin",
        "Accept",
        "Content-Encoding",
        "Expect",
        "Upgrade",
        "Idempotency-Key",
        "Host",
        "Cookie",
        "Transfer-Encoding",
        "Content-Length",
        "Last-Event-ID",
        "Content-Type",
        "Sec-WebSocket-Protocol",
    ]
)
HEADER_VALUES = st.one_of(
    st.binary(max_size=5).map(lambda raw: b"wait=" + raw.replace(b"\r", b"").replace(b"\n", b"")),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
    st.sampled_from(
        [b"*", b'"x', b"W/", b"bytes=", b"bytes=1-", b"wait=", b"100-continue", b"chunked", b"-1", b"websocket"]
    ),
)


async def test_no_header_makes_a_500(site: Site) -> None:
    run_id = await site.publish(status="success", output={"stdout": "x"})

    @SWEEP
    @given(HEADERS, HEADER_VALUES, st.sampled_from(["", "/output", "/events", "/logs"]))
    async def sweep(name: str, value: bytes, rest: str) -> None:
        raw = request_line(b"GET", f"/v1/runs/{run_id}{rest}".encode(), name.encode() + b": " + value)
        answer = await ask(site, raw)
        assert b"HTTP/1.1 500" not in answer, (raw, answer)

    await run(sweep)


async def test_noise_makes_no_500(site: Site) -> None:
    @SWEEP
    @given(st.binary(min_size=1, max_size=200))
    async def sweep(noise: bytes) -> None:
        answer = await ask(site, noise + b"\r\n\r\n")
        assert b"HTTP/1.1 500" not in answer, noise

    await run(sweep)


async def run(sweep: object) -> None:
    """Run a sweep whose examples are coroutines on the loop that the site lives on."""
    inner = sweep.hypothesis.inner_test  # type: ignore[attr-defined]
    loop = asyncio.get_running_loop()

    def example(*args: object, **kwargs: object) -> None:
        asyncio.run_coroutine_threadsafe(inner(*args, **kwargs), loop).result(20)

    sweep.hypothesis.inner_test = example  # type: ignore[attr-defined]
    await asyncio.to_thread(sweep)  # type: ignore[arg-type]


async def test_what_is_no_http_is_told_so(site: Site) -> None:
    for raw in (
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
    ):
        answer = await ask(site, raw)

        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), (raw, answer)
        assert b"application/problem+json" in answer


@pytest.mark.parametrize("line", [b"GET /healthz", b"GET /healthz HTTP/0.9", b"GET /healthz HTTP/2.0"])
async def test_a_version_that_is_not_spoken_is_refused_in_one_that_is(site: Site, line: bytes) -> None:
    answer = await ask(site, line + b"\r\nHost: x\r\n\r\n")

    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), answer
    assert b"Connection: close" in answer or answer.startswith(b"HTTP/1.0")
    assert b"application/problem+json" in answer


async def test_a_head_over_the_limits_is_too_large_and_told_which(site: Site) -> None:
    for raw, says in (
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"16384 bytes"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"16384 bytes"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"64 headers"),
    ):
        answer = await ask(site, raw)

        assert answer.split(b" ", 2)[1] == b"431"
        assert b"application/problem+json" in answer
        assert says in answer


@pytest.mark.parametrize(
    ("token", "length", "answered"),
    [(ADMIN, 47, b"HTTP/1.1 100 "), (ADMIN, 99_999_999, b"HTTP/1.1 413 "), ("nobody", 47, b"HTTP/1.1 401 ")],
)
async def test_a_body_is_asked_for_only_where_it_is_wanted(
    site: Site, token: str, length: int, answered: bytes
) -> None:
    head = [
        f"POST /v1/runs/{RUN_ID}/transitions HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token}",
        "Expect: 100-continue",
        f"Content-Length: {length}",
    ]
    async with wire(site) as (reader, writer):
        writer.write("\r\n".join([*head, "", ""]).encode())
        first = await reader.readuntil(b"\r\n\r\n")
        assert first.startswith(answered)

        if answered == b"HTTP/1.1 100 ":
            writer.write(b'{"status":"running","project_name":"forecasts"}')
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 202 ")


async def test_half_a_head_is_not_waited_for(site: Site) -> None:
    async with site_over(site.store, head_timeout_s=0.2) as other:
        for raw in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
            async with wire(other) as (reader, writer):
                writer.write(raw)

                answer = await asyncio.wait_for(reader.read(), 3)

            assert answer.startswith(b"HTTP/1.1 408")
            assert b"request_timeout" in answer


async def test_half_a_head_behind_a_request_is_not_waited_for_either(site: Site) -> None:
    async with site_over(site.store, head_timeout_s=0.2, keepalive_s=30) as other, wire(other) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(b"GET /heal")

        answer = await asyncio.wait_for(reader.read(), 3)

    assert answer.startswith(b"HTTP/1.1 408")


async def test_an_idle_connection_is_closed(site: Site) -> None:
    async with site_over(site.store, keepalive_s=0.2) as other, wire(other) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

        answer = await asyncio.wait_for(reader.read(), 3)

    assert answer.startswith(b"HTTP/1.1 200")


async def test_half_a_body_is_not_waited_for(site: Site) -> None:
    async with site_over(site.store, body_idle_s=0.2) as other, wire(other) as (reader, writer):
        writer.write(request_line(b"POST", b"/v1/runs", b"Content-Length: 100") + b"{")

        answer = await asyncio.wait_for(reader.read(), 5)

    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_body_that_drips_is_cut_at_its_whole_time(site: Site) -> None:
    async with site_over(site.store, body_timeout_s=0.3) as other, wire(other) as (reader, writer):
        writer.write(request_line(b"POST", b"/v1/runs", b"Transfer-Encoding: chunked"))
        for _ in range(40):
            if reader.at_eof() or reader._buffer:  # type: ignore[attr-defined]
                break
            writer.write(b"1\r\n{\r\n")
            await asyncio.sleep(0.02)

        answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)

    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(site: Site) -> None:
    raw = request_line(b"POST", b"/v1/runs", b"Content-Length: 999999999999")

    answer = await ask(site, raw)

    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_that_never_says_how_long_it_is_is_cut_at_the_limit(site: Site) -> None:
    async with site_over(site.store, max_run_body_bytes=1000) as other:
        raw = (
            request_line(b"POST", b"/v1/runs", b"Transfer-Encoding: chunked")
            + b"400\r\n"
            + b"x" * 1024
            + b"\r\n0\r\n\r\n"
        )

        answer = await ask(other, raw)

    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_peer_that_reads_nothing_is_cut_off(site: Site) -> None:
    run_id = await site.publish(status="success", output={"stdout": "x" * 16_000_000})
    async with site_over(site.store, write_stall_s=0.3) as other, wire(other) as (_, writer):
        writer.write(request_line(b"GET", f"/v1/runs/{run_id}/output".encode()))
        server = other.gateway._runner.server  # type: ignore[union-attr]
        await until(lambda: len(server.connections) == 1)

        await until(lambda: not server.connections)


async def test_an_address_holds_no_more_connections_than_it_may(site: Site) -> None:
    async with site_over(site.store, connections_per_address=2) as other, wire(other), wire(other) as second:
        third = await ask(other, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        second[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await asyncio.wait_for(second[0].readuntil(b"}"), 3)

    assert (third[:12], answer[:12]) == (b"HTTP/1.1 429", b"HTTP/1.1 200")
    assert b"rate_limited" in third


async def test_nothing_is_left_of_many_requests_in_one_go(site: Site) -> None:
    raw = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 200 + request_line(b"GET", b"/healthz")

    async with wire(site) as (reader, writer):
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 5)

    assert answer.count(b"HTTP/1.1 200") == 201
