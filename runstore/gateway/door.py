"""The door: everything that is checked before a handler hears of a request, and every error turned into a problem.

In this order: the caller is known, it does not ask too often, the origin is let in, the scope is held, the address can
be read, the route exists, its query parameters are known, what it gives is wanted, the body is JSON and not encoded.
Under /v1 nothing answers without a valid token, not even that an address does not exist.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.typedefs import Middleware
from multidict import istr

from runstore.core.errors import Forbidden, RateLimited, RunstoreError, Unauthorized
from runstore.core.principal import Principal, Scope
from runstore.gateway.access_log import masked_path
from runstore.gateway.context import CALLER, SERVICES, Services
from runstore.gateway.cors import answer_beforehand, asks_beforehand
from runstore.gateway.counts import ROW, GatewayCounts, Row
from runstore.gateway.media import check_json, negotiate
from runstore.gateway.problems import HttpProblem, problem, respond, respond_to, respond_to_http
from runstore.gateway.query import check_names
from runstore.gateway.route import Route
from runstore.request_id import HEADER, begin

Outermost = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SPOKEN: Final = frozenset({HttpVersion10, HttpVersion11})
_GUARDED: Final = ("/v1", "/mcp")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REQUEST_ID: Final = istr(HEADER)
_log = logging.getLogger("runstore.gateway")


def door(routes: Mapping[web.AbstractRoute, Route], rows: Mapping[web.AbstractRoute, Row]) -> Middleware:
    """Make the middleware that stands before the routes; `rows` are where the answers of each are counted."""

    @web.middleware
    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        found = request.match_info.route
        route = routes.get(found)
        if route is not None:
            request[ROW] = rows[found]
        services = request.app[SERVICES]
        if asks_beforehand(request):
            check_origin(request, services.config.allowed_origins)
            return answer_beforehand()
        if (route is not None and not route.is_open) or (route is None and is_guarded(request.path)):
            await admit(request, services, route)
        check_target(request.raw_path)
        if route is not None:
            if request.rel_url.raw_query_string:
                check_names(request, route.query_names)
            check_media(request, route)
        return await handler(request)

    return enter


async def admit(request: web.Request, services: Services, route: Route | None) -> None:
    """Let a caller in; one that has been let in already is not looked at again.

    Raises: Unauthorized, RateLimited, Forbidden.
    """
    if CALLER in request:
        return
    try:
        caller = await services.auth.caller(request, websocket=route is not None and route.is_websocket)
    except Unauthorized:
        services.rates.spend_as_stranger(request)
        raise
    request[CALLER] = caller
    if route is None or not route.counts_itself:
        services.rates.spend(request, caller)
    if "Origin" in request.headers:
        check_origin(request, services.config.allowed_origins)
    if route is not None:
        check_may(caller.principal, route)


def guard(handle: Outermost, counts: GatewayCounts) -> Outermost:
    """Give a request its id, turn whatever leaves a handler into a problem, and count it; only answers go out."""

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        request_id = begin(request.headers.get(_REQUEST_ID))
        response = await answer(request)
        counts.answered(request, response.status)
        if not response.prepared:
            response.headers[_REQUEST_ID] = request_id
        return response

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            check_version(request)
            check_expectation(request)
            return await handle(request)
        except RunstoreError as error:
            if isinstance(error, RateLimited):
                counts.requests_refused += 1
            return respond_to(error)
        except web.HTTPException as error:
            return respond_to_http(error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:  # noqa: BLE001 - a bug, told as one
            _log.exception("request_failed", extra={"method": request.method, "path": masked_path(request.path)})
            return respond(problem("internal_error", "something went wrong here; it was logged"), close=True)

    return guarded


def check_version(request: web.BaseRequest) -> None:
    """Check that a request is of a version of HTTP that is spoken here.

    Raises: HttpProblem.
    """
    if request._message.version not in _SPOKEN:
        # aiohttp answers in the version it was asked in, whatever that is, and keeps `request.version` once it is read
        request._version = HttpVersion10
        raise HttpProblem("bad_request", "this is no HTTP/1.1, nor HTTP/1.0", close=True)


def check_expectation(request: web.BaseRequest) -> None:
    """Check that a request expects nothing that cannot be met.

    Raises: HttpProblem.
    """
    if "Expect" in request.headers and request.headers["Expect"].lower() != "100-continue":
        raise HttpProblem("expectation_failed", "the only expectation that can be met is 100-continue", close=True)


def check_target(raw: str) -> None:
    """Check that the address of a request can be read.

    Raises: HttpProblem.
    """
    if raw.isascii() and "%" not in raw:
        return
    if _BAD_PERCENT.search(raw):
        raise HttpProblem("bad_request", "a '%' in the address must be followed by two hex digits")
    try:
        unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeDecodeError:
        raise HttpProblem("bad_request", "the address is not UTF-8") from None


def check_media(request: web.Request, route: Route) -> None:
    """Check that a client takes what the route gives, and that it sends what the route takes.

    Raises: NotAcceptable, HttpProblem.
    """
    if route.media and request.headers.get("Accept", "*/*") != "*/*":
        negotiate(request, *route.media)
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise HttpProblem("unsupported_media_type", "send the body as it is, without Content-Encoding", close=True)
    if route.body is not None:
        check_json(request)


def is_guarded(path: str) -> bool:
    """Whether an address answers to nobody without a token."""
    return any(path == head or path.startswith(head + "/") for head in _GUARDED)


def check_may(principal: Principal, route: Route) -> None:
    """Check that a caller may use a route at all.

    Raises: Forbidden.
    """
    if principal.run_id is not None and not route.for_run_token:
        raise Forbidden("a run token is for looking at one run, and for nothing else")
    if route.scope is not None:
        check_scope(principal, route.scope)


def check_scope(principal: Principal, scope: Scope) -> None:
    """Check that a caller has a scope.

    Raises: Forbidden, naming it.
    """
    if not principal.may(scope):
        raise Forbidden(f"the token lacks the scope {scope.value}")


def check_origin(request: web.Request, allowed: frozenset[str]) -> None:
    """Check that a browser's page comes from this gateway or from an origin that was let in.

    Raises: Forbidden.
    """
    for origin in request.headers.getall("Origin"):
        if origin in allowed or "*" in allowed or _is_own(origin, request.headers.get("Host", "")):
            continue
        raise Forbidden(f"the origin {origin[:100]!r} is not let in here: add it to allowed_origins")


def _is_own(origin: str, host: str) -> bool:
    try:
        page = urlsplit(origin)
        port = page.port or _DEFAULT_PORTS.get(page.scheme)
        here = urlsplit(f"{page.scheme}://{host}")
        return (
            page.scheme in _DEFAULT_PORTS
            and bool(page.hostname)
            and page.hostname == here.hostname
            and port == (here.port or _DEFAULT_PORTS[page.scheme])
        )
    except ValueError:
        return False
