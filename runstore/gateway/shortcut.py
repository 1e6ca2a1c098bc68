"""The short way to the answer that is asked for most: a run that has ended, by its whole id, with nothing special.

It goes past the router and the middleware, which cost as much as all the rest, but not past the door: the caller is
admitted as everywhere. Whatever is out of the ordinary about a request takes the long way, and gets the same answer.
"""

import re
from typing import Final

from aiohttp import web

from runstore.core.ids import RunId
from runstore.gateway.answers import respond_run
from runstore.gateway.context import Services, principal_of
from runstore.gateway.door import Outermost, admit
from runstore.gateway.route import Route

_ASKED: Final = re.compile(r"/v1/runs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_SPECIAL: Final = (
    "Prefer",
    "If-None-Match",
    "Origin",
    "Expect",
    "Content-Encoding",
    "Content-Length",
    "Transfer-Encoding",
)


def shortcut(handle: Outermost, services: Services, route: Route) -> Outermost:
    """Put the short way before the long one. `route` is that of `GET /v1/runs/{run_id}`."""

    async def handle_or_answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" and isinstance(request, web.Request):
            asked = _ASKED.fullmatch(request.raw_path)
            if asked is not None and _is_plain(request):
                # first, so that the work of letting in tells nothing of which runs there are
                await admit(request, services, route)
                seen, answer = services.tail.whole_cursor(), services.lookup.kept(RunId(asked[1]))
                run = answer.record.run if answer is not None else None
                if (
                    answer is not None
                    and run is not None
                    and principal_of(request).may_see(run.project_name, run.run_id)
                ):
                    return respond_run(answer, services.cursor_text(run.run_id, seen))
        return await handle(request)

    return handle_or_answer


def _is_plain(request: web.Request) -> bool:
    headers = request.headers
    return headers.get("Accept", "*/*") == "*/*" and not any(name in headers for name in _SPECIAL)
