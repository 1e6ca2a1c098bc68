"""A trace that begins with a request goes on with its run."""

from typing import Any

import pytest

from runstore.wire.event import decode_event
from tests.gateway.builders import RUN_ID, Site

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


async def traces(site: Site) -> list[str | None]:
    """Return the traces of all events in the log."""
    client, meta = site.store.redis.client, site.store.redis.meta
    rows = [row for keys in meta.keys for row in await client.execute_command("XRANGE", keys.events, "-", "+")]
    return [decode_event(fields[b"event"])[0].traceparent for _, fields in rows]


@pytest.mark.parametrize(("told", "kept"), [(TRACE, TRACE), ("nonsense", None), (f"00-{'0' * 32}-{'1' * 16}-01", None)])
async def test_the_trace_of_a_request_is_its_runs(site: Site, told: str, kept: str | None) -> None:
    reply = await site.post("/v1/runs", {"project_name": "forecasts"}, headers={"traceparent": told})

    assert reply.status == 202
    assert await traces(site) == [kept]


@pytest.mark.parametrize(("body", "kept"), [({}, TRACE), ({"traceparent": OTHER}, OTHER)])
async def test_an_events_own_trace_is_before_the_requests(site: Site, body: dict[str, Any], kept: str) -> None:
    event = {"status": "running", "project_name": "forecasts", **body}

    reply = await site.post(f"/v1/runs/{RUN_ID}/transitions", event, headers={"traceparent": TRACE})

    assert reply.status == 202
    assert await traces(site) == [kept]
