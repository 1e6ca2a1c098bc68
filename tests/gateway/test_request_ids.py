"""Request ids: taken where they can be one, told in every answer and problem, and in what is logged on the way."""

import asyncio
import logging

import pytest

from runstore import request_id
from tests.gateway.builders import ADMIN, RUN_ID, Site

MADE = 16


@pytest.mark.parametrize(
    "told",
    [
        "a",
        "order-17_b.2",
        "0af7651916cd43dd8448eb211c80319c",
        "9F1c2d3e-0000-4000-8000-000000000000",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ],
)
async def test_an_id_that_can_be_one_is_taken_and_told(site: Site, told: str) -> None:
    reply = await site.get("/v1/runs", headers={"X-Request-Id": told})

    assert reply.headers.getall("X-Request-Id") == [told]


@pytest.mark.parametrize("told", ["", "a b", "x" * 20, "rst_" + "a" * 36, ADMIN, "<script>", "é"])
async def test_what_may_be_anything_is_not_repeated(site: Site, told: str) -> None:
    reply = await site.get("/v1/runs", headers={"X-Request-Id": told})

    [made] = reply.headers.getall("X-Request-Id")
    assert made != told
    assert len(made) == MADE


@pytest.mark.parametrize(
    "path",
    ["/v1/runs?limit=0", "/nothing", f"/v1/runs/{RUN_ID}", "/v1/runs/%zz", "/readyz", "/v1/openapi.json", "/mcp"],
)
async def test_every_answer_has_an_id_and_a_problem_names_it(site: Site, path: str) -> None:
    first, second = [await site.get(path, headers={"X-Request-Id": ""}) for _ in range(2)]

    ids = [reply.headers.getall("X-Request-Id") for reply in (first, second)]
    assert all(len(each) == 1 for each in ids)
    assert ids[0] != ids[1]
    if first.status >= 400 and "problem" in first.headers["Content-Type"]:
        assert [first.json()["request_id"]] == ids[0]


async def test_a_kept_answer_and_a_stream_have_an_id_too(site: Site) -> None:
    run_id = await site.publish(status="success")
    for _ in range(3):
        reply = await site.get(f"/v1/runs/{run_id}", headers={"X-Request-Id": "mine"})
    events = await site.get(f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream", "X-Request-Id": "my"})

    assert (reply.status, reply.headers.getall("X-Request-Id")) == (200, ["mine"])
    assert (events.status, events.headers.getall("X-Request-Id")) == (200, ["my"])


async def test_what_cannot_be_read_as_a_request_gets_an_id_of_its_own(site: Site) -> None:
    host, port = site.gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: first\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    await reader.readexactly(len(b'{"status":"alive"}'))
    writer.write(b"nonsense\r\n\r\n")
    told = await asyncio.wait_for(reader.read(), 10)
    writer.close()

    [made] = (part.partition(b"\r\n")[0] for part in told.split(b"X-Request-Id: ")[1:])
    assert b"X-Request-Id: first\r\n" in head
    assert len(made) == MADE
    assert b'"request_id":"%b"' % made in told


async def test_what_is_logged_for_a_request_has_its_id(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(request_id.add_to)
    with caplog.at_level(logging.INFO, "runstore.gateway.access"):
        await site.get("/v1/runs", headers={"X-Request-Id": "mine"})
        await site.get("/healthz", headers={"X-Request-Id": "yours"})
    caplog.handler.removeFilter(request_id.add_to)

    logged = [(record.__dict__["path"], record.__dict__["request_id"]) for record in caplog.records]
    assert logged == [("/v1/runs", "mine"), ("/healthz", "yours")]
