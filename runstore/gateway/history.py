"""`GET /v1/runs/{id}/events`: what happened to a run, as JSON, or as SSE that goes on until its terminal event.

Event ids are cursors. While the history is told they are places in the log, each event's own; the last one, and those
that come live, are proven places in the feed.
"""

from typing import Final

import msgspec
from aiohttp import web

from runstore.gateway.answers import CURSOR, catch_up, respond_json
from runstore.gateway.context import principal_of, services_of
from runstore.gateway.history_stream import stream_events
from runstore.gateway.media import negotiate
from runstore.gateway.sse import EVENT_STREAM
from runstore.wire.schema import RunIdText
from runstore.wire.views import EventView, encode, view_event

_JSON: Final = "application/json"


class RunEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The kept events of a run, in stream order."""

    run_id: RunIdText
    events: tuple[EventView, ...]


async def get_events(request: web.Request) -> web.StreamResponse:
    """Answer with the events of a run."""
    services = services_of(request)
    wanted = negotiate(request, _JSON, EVENT_STREAM)
    await catch_up(request, services)
    seen = services.tail.whole_cursor()
    run_id = await services.resolver.resolve(principal_of(request), request.match_info["run_id"])
    if wanted == EVENT_STREAM and request.method == "HEAD":
        return web.Response(headers={"Content-Type": EVENT_STREAM, CURSOR: services.cursor_text(run_id, seen)})
    if wanted == EVENT_STREAM:
        return await stream_events(request, services, run_id)
    history = await services.runs.history(run_id)
    answer = RunEvents(run_id=run_id, events=tuple(view_event(item) for item in history))
    return respond_json(encode(answer), headers={CURSOR: services.cursor_text(run_id, seen)})
