"""The short way to the answer that is asked for most: a run that has ended, by its whole id, with nothing special.

It goes past the router and the middleware, which cost as much as all the rest, but not past the door: the caller is
admitted as everywhere. Whatever is out of the ordinary about a request takes the long way, and gets the same answer.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from runstore.core.errors import RateLimited, RunstoreError
from runstore.core.ids import RunId
from runstore.gateway.answers import respond_run
from runstore.gateway.context import Services, principal_of
from runstore.gateway.counts import ROW
from runstore.gateway.door import Outermost, admit
from runstore.gateway.problems import respond_to
from runstore.gateway.route import Route

Finish = Callable[[web.Request, CIMultiDict[str]], None]
ASKED: Final = re.compile(r"/v1/runs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_SPECIAL: Final = (
    "Prefer",
    "If-None-Match",
    "Origin",
    "Expect",
    "Content-Encoding",
    "Content-Length",
    "Transfer-Encoding",
)


def shortcut(handle: Outermost, services: Services, route: Route, finish: Finish) -> Outermost:
    """Put the short way before the long one.

    `route` is that of `GET /v1/runs/{run_id}`, `finish` adds to an answer what all of them tell.
    """
    row = services.counts.row(route)

    async def answer(request: web.Request, run_id: RunId) -> web.StreamResponse:
        request[ROW] = row
        # first, so that the work of letting in tells nothing of which runs there are
        try:
            await admit(request, services, route)
        except RateLimited as error:
            services.counts.requests_refused += 1
            return told(request, respond_to(error))
        except RunstoreError as error:
            return told(request, respond_to(error))
        seen, kept = services.tail.whole_cursor(), services.lookup.kept(run_id)
        if kept is None or not principal_of(request).may_see(kept.record.run.project_name, run_id):
            return await handle(request)
        return told(request, respond_run(kept, services.cursor_text(run_id, seen)))

    def told(request: web.Request, response: web.Response) -> web.Response:
        finish(request, response.headers)
        return response

    def answer_or_handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if request.method == "GET" and isinstance(request, web.Request):
            asked = ASKED.fullmatch(request.raw_path)
            if asked is not None and is_plain(request.headers):
                return answer(request, RunId(asked[1]))
        return handle(request)

    return answer_or_handle


def is_plain(headers: MultiMapping[str]) -> bool:
    """Whether the headers of a look-up ask for nothing but the run."""
    return headers.get("Accept", "*/*") == "*/*" and not any(name in headers for name in _SPECIAL)
