"""Answers about runs, and what every handler that reads does first."""

from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from runstore.core.ids import RunId
from runstore.core.principal import Principal
from runstore.gateway.context import CALLER, Services
from runstore.gateway.query import one
from runstore.lookup import Answer
from runstore.wire.cursor import decode_cursor

JSON: Final = "application/json"
CURSOR: Final = "Runstore-Cursor"
MAX_HEADER_CHARACTERS: Final = 8000
"""Longer header fields are refused by common clients and proxies."""

CACHE: Final = "private, no-cache"


async def catch_up(request: web.Request, services: Services) -> None:
    """Wait until what is read next cannot be from before `?after=`.

    Raises: InvalidRequest, CursorLost, StoreUnavailable; Unauthorized where the caller's token ends meanwhile.
    """
    if not request.rel_url.raw_query_string:
        return
    after = one(request, "after")
    if after is not None:
        await services.tail.reached(decode_cursor(after), services.config.fold_wait_s)
        services.auth.check_still_valid(request[CALLER])


async def load_answer(services: Services, principal: Principal, text: str) -> tuple[Answer, str]:
    """Load the answer about a run as a caller named it, and its cursor: a place from before the run was read.

    Raises: as `Resolver.load`.
    """
    seen = services.tail.whole_cursor()
    record = await services.resolver.load(principal, text)
    answer = await services.lookup.show(record)
    return answer, services.cursor_text(record.run.run_id, seen)


def respond_run(answer: Answer, cursor: str, *, status: int = 200, location: bool = False) -> web.Response:
    """Answer with a run."""
    headers = CIMultiDict({"Content-Type": JSON, CURSOR: cursor, "Cache-Control": CACHE})
    if status == web.HTTPOk.status_code:
        headers["ETag"] = answer.etag
    if location:
        headers["Location"] = run_path(answer.record.run.run_id)
    return web.Response(body=answer.body, status=status, headers=headers)


def respond_json(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with ready JSON."""
    return web.Response(
        body=body, status=status, headers={"Content-Type": JSON, "Cache-Control": CACHE, **(headers or {})}
    )


def run_path(run_id: RunId) -> str:
    """Return the address of a run."""
    return f"/v1/runs/{run_id}"
