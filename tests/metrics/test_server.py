"""The port for numbers: three answers, and nothing for those who ask otherwise."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from runstore.metrics import MetricsServer, Numbers, Sample


@pytest.fixture
async def server() -> AsyncIterator[MetricsServer]:
    numbers = Numbers()
    numbers.add(lambda: [Sample("runstore_commits_total", 3)])
    made = MetricsServer(numbers, "127.0.0.1", 0)
    await made.start()
    yield made
    await made.stop()


async def test_it_gives_the_numbers_as_whoever_asks_can_read_them(server: MetricsServer) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(server.url) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert "runstore_commits_total 3.0\n" in await answer.text()
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with http.get(server.url, headers=accept) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await answer.text()).endswith("# EOF\n")


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/healthz", 200, "alive\n"),
        ("GET", "/readyz", 503, "it has not begun: is Redis there?\n"),
        ("HEAD", "/metrics", 200, ""),
        ("GET", "/", 404, "there are /metrics, /healthz and /readyz\n"),
        ("POST", "/metrics", 405, "use GET\n"),
    ],
)
async def test_it_answers_three_addresses_and_no_more(
    server: MetricsServer, method: str, path: str, status: int, body: str
) -> None:
    url = server.url.removesuffix("/metrics") + path
    async with aiohttp.ClientSession() as http, http.request(method, url) as answer:
        assert (answer.status, await answer.text()) == (status, body)


async def test_it_says_that_the_service_is_ready_once_it_was_told_so(server: MetricsServer) -> None:
    server.tell_ready()

    async with aiohttp.ClientSession() as http, http.get(server.url.replace("/metrics", "/readyz")) as answer:
        assert (answer.status, await answer.text()) == (200, "ready\n")


@pytest.mark.parametrize("sent", [b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 20_000, b"\x16\x03\x01", b""])
async def test_who_sends_something_else_is_cut_off_and_others_are_not(server: MetricsServer, sent: bytes) -> None:
    port = int(server.url.rsplit(":", 1)[1].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()

    assert await reader.read() == b""
    writer.close()
    async with aiohttp.ClientSession() as http, http.get(server.url) as answer:
        assert answer.status == 200
