"""Look runs up: one by its id or a prefix, held until it has ended where that is preferred, and many as a listing."""

import asyncio
import time
from typing import NamedTuple

from aiohttp import web

from runstore.core.errors import Forbidden
from runstore.core.ids import RunId
from runstore.core.principal import Principal
from runstore.core.run import Run
from runstore.gateway.answers import (
    CACHE,
    CURSOR,
    MAX_HEADER_CHARACTERS,
    catch_up,
    load_answer,
    respond_json,
    respond_run,
)
from runstore.gateway.context import CALLER, Caller, Services, principal_of, services_of
from runstore.gateway.headers import matches, read_wait
from runstore.gateway.query import Queried, read_limit, read_list_query, read_position, write_position
from runstore.ports import ListPosition, ListQuery
from runstore.wire.cursor import encode_cursor
from runstore.wire.views import RunPage, encode, view_listed


class Listing(NamedTuple):
    """What is listed, and from where (`query` None: the caller may read nothing of it)."""

    query: ListQuery | None
    limit: int
    position: ListPosition | None


async def get_run(request: web.Request) -> web.StreamResponse:
    """Answer with one run."""
    services, caller = services_of(request), request[CALLER]
    wait_s = read_wait(request, services.config.max_wait_s) if "Prefer" in request.headers else None
    await catch_up(request, services)
    text = request.match_info["run_id"]
    answer, cursor = await load_answer(services, caller.principal, text)
    if wait_s is not None and not answer.record.run.is_terminal:
        run_id = answer.record.run.run_id
        with services.holds.hold(caller.principal):
            await wait_for_end(services, caller, run_id, wait_s)
        answer, cursor = await load_answer(services, caller.principal, run_id)
    if matches(request, answer.etag):
        response = web.Response(status=304, headers={"ETag": answer.etag, CURSOR: cursor, "Cache-Control": CACHE})
    else:
        response = respond_run(answer, cursor)
    if wait_s is not None:
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    return response


async def wait_for_end(services: Services, caller: Caller, run_id: RunId, wait_s: float) -> None:
    """Wait until a run has ended, the time is over or the gateway stops; its end is pushed, never polled for.

    Raises: Unauthorized where the caller's token ends meanwhile; StoreUnavailable.
    """
    end = asyncio.create_task(services.tail.wait_terminal(run_id, lambda: services.lookup.record(run_id), wait_s))
    stop = asyncio.create_task(services.stopping.wait())
    try:
        done: set[asyncio.Task[Run | None] | asyncio.Task[bool]] = set()
        while not done:
            done, _ = await asyncio.wait(
                {end, stop}, timeout=_recheck_in(services, caller), return_when=asyncio.FIRST_COMPLETED
            )
            services.auth.check_still_valid(caller)
        if end.done():
            end.result()
    finally:
        end.cancel()
        stop.cancel()


def _recheck_in(services: Services, caller: Caller) -> float:
    expires_at_s = caller.principal.expires_at_s
    recheck_s = services.config.recheck_s
    return recheck_s if expires_at_s is None else max(0.01, min(recheck_s, expires_at_s - time.time()))


async def list_runs(request: web.Request) -> web.StreamResponse:
    """Answer with a page of runs, newest first."""
    services, principal = services_of(request), principal_of(request)
    listing = read_listing(request, principal)
    await catch_up(request, services)
    cursor = encode_cursor(services.tail.whole_cursor())
    page = await load_page(services, listing)
    # a client that was sent an over-long header would take nothing of the answer
    return respond_json(encode(page), headers={CURSOR: cursor} if len(cursor) <= MAX_HEADER_CHARACTERS else {})


def read_listing(asked: Queried, principal: Principal) -> Listing:
    """Read what is to be listed.

    Raises: Forbidden, InvalidRequest.
    """
    if principal.run_id is not None:
        raise Forbidden("a run token is for one run: it lists nothing")
    return Listing(read_list_query(asked, principal), read_limit(asked), read_position(asked))


async def load_page(services: Services, listing: Listing) -> RunPage:
    """Load one page of a listing.

    Raises: StoreUnavailable.
    """
    runs: list[Run] = []
    after: ListPosition | None = None
    if listing.query is not None:
        runs, after = await _page(services, listing.query, listing.position, listing.limit)
    return RunPage(
        runs=tuple(view_listed(run) for run in runs), next_cursor=write_position(after) if after is not None else None
    )


async def _page(
    services: Services, query: ListQuery, position: ListPosition | None, limit: int
) -> tuple[list[Run], ListPosition | None]:
    runs: list[Run] = []
    for _ in range(services.config.partial_page_rounds):
        page = await services.runs.list_runs(query, position, limit - len(runs))
        runs += page.runs
        position = page.next_position
        if position is None or len(runs) >= limit:
            break
    return runs, position
