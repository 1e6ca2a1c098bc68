"""`GET /v1/runs/{id}/logs`: stdout and stderr, as text of what is there, or as SSE until the run has ended.

An ended run's logs are those of its full output, where it left one; else, and while it runs, the log stream's.
"""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from runstore.core.ids import RunId
from runstore.gateway.answers import CACHE, CURSOR, catch_up
from runstore.gateway.context import Services, principal_of, services_of
from runstore.gateway.logs_read import Decoders, read_left
from runstore.gateway.logs_stream import stream_logs
from runstore.gateway.media import negotiate
from runstore.gateway.sse import EVENT_STREAM

_TEXT: Final = "text/plain"


async def get_logs(request: web.Request) -> web.StreamResponse:
    """Answer with the logs of a run."""
    services = services_of(request)
    wanted = negotiate(request, _TEXT, EVENT_STREAM)
    await catch_up(request, services)
    seen = services.tail.whole_cursor()
    record = await services.resolver.load(principal_of(request), request.match_info["run_id"])
    run = record.run
    if wanted == EVENT_STREAM and request.method == "HEAD":
        return web.Response(headers={"Content-Type": EVENT_STREAM, CURSOR: services.cursor_text(run.run_id, seen)})
    if wanted == EVENT_STREAM:
        return await stream_logs(request, services, run.run_id)
    headers = {CURSOR: services.cursor_text(run.run_id, seen), "Cache-Control": CACHE}
    left = await read_left(services, run) if run.is_terminal else None
    if left is not None:
        text = left.stdout + left.stderr
    else:
        text = "".join([piece async for piece in _read_so_far(services, run.run_id)])
    return web.Response(
        body=text.encode("utf-8", "replace"), headers={"Content-Type": "text/plain; charset=utf-8", **headers}
    )


async def _read_so_far(services: Services, run_id: RunId) -> AsyncIterator[str]:
    decoders = Decoders()
    after = "0"
    while chunks := await services.store.logs.read_logs(run_id, after, 0):
        for chunk in chunks:
            yield decoders.decode(chunk.stream, chunk.data)
        after = chunks[-1].after
    yield decoders.finish()
