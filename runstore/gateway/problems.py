"""Errors as the outside sees them: RFC 9457 problems, with a stable code each."""

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from runstore.core.errors import AmbiguousRunId, RateLimited, RunstoreError
from runstore.gateway.browsers import ALWAYS
from runstore.request_id import current
from runstore.wire.views import encode

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
_TYPES: Final = "urn:runstore:problem:"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, and what to mend. `candidates` are the full ids that an ambiguous prefix begins.

    `request_id` is that of the answer's `X-Request-Id`, for who asks the operator about it.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    candidates: tuple[str, ...] | None = None
    request_id: str | None = None


class Kind(NamedTuple):
    """A kind of problem: its status and title."""

    status: int
    title: str


KINDS: Final[Mapping[str, Kind]] = {
    "invalid_run_id": Kind(422, "Not a run id"),
    "unknown_project": Kind(422, "Unknown project"),
    "invalid_request": Kind(422, "Invalid request"),
    "run_not_found": Kind(404, "Run not found"),
    "ambiguous_run_id": Kind(409, "Ambiguous run id"),
    "idempotency_conflict": Kind(409, "Idempotency conflict"),
    "cursor_lost": Kind(410, "Cursor lost"),
    "unauthorized": Kind(401, "Unauthorized"),
    "forbidden": Kind(403, "Forbidden"),
    "payload_too_large": Kind(413, "Payload too large"),
    "output_not_found": Kind(404, "Output not found"),
    "rate_limited": Kind(429, "Too many requests"),
    "store_unavailable": Kind(503, "Store unavailable"),
    "not_acceptable": Kind(406, "Not acceptable"),
    "bad_request": Kind(400, "Bad request"),
    "not_found": Kind(404, "Not found"),
    "method_not_allowed": Kind(405, "Method not allowed"),
    "request_timeout": Kind(408, "Request timeout"),
    "unsupported_media_type": Kind(415, "Unsupported media type"),
    "range_not_satisfiable": Kind(416, "Range not satisfiable"),
    "expectation_failed": Kind(417, "Expectation failed"),
    "upgrade_required": Kind(426, "Upgrade required"),
    "head_too_large": Kind(431, "Request head too large"),
    "internal_error": Kind(500, "Internal error"),
}
"""Every code that an answer may carry."""


class HttpProblem(RunstoreError):
    """A request breaks a rule of HTTP itself, which no error of the core is about."""

    def __init__(
        self, code: str, detail: str, *, headers: Mapping[str, str] | None = None, close: bool = False
    ) -> None:
        super().__init__(detail)
        self.problem_code = code
        self.headers = dict(headers or {})
        self.close = close


def problem(code: str, detail: str, *, candidates: tuple[str, ...] | None = None) -> Problem:
    """Make a problem of a known kind."""
    kind = KINDS[code]
    return Problem(
        type=_TYPES + code,
        title=kind.title,
        status=kind.status,
        detail=detail.encode("utf-8", "backslashreplace").decode(),
        code=code,
        candidates=candidates,
        request_id=current(),
    )


def respond(told: Problem, headers: Mapping[str, str] | None = None, *, close: bool = False) -> web.Response:
    """Answer with a problem."""
    response = web.Response(
        body=encode(told),
        status=told.status,
        reason=HTTPStatus(told.status).phrase,
        content_type=CONTENT_TYPE,
        # what cannot be read as a request gets this answer as it is
        headers={"Cache-Control": "no-store", **ALWAYS, **(headers or {})},
    )
    if close:
        response.force_close()
    return response


def write(told: Problem, headers: Mapping[str, str] | None = None) -> bytes:
    """Write a problem as the whole last answer of a connection, for what comes before there is a request."""
    body = encode(told)
    fields = {
        "Connection": "close",
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        **ALWAYS,
        **(headers or {}),
    }
    lines = [f"HTTP/1.1 {told.status} {HTTPStatus(told.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def respond_to(error: RunstoreError) -> web.Response:
    """Answer an error of the tree."""
    if isinstance(error, HttpProblem):
        return respond(problem(error.problem_code, error.detail), error.headers, close=error.close)
    code = error.code if error.code in KINDS else "internal_error"
    candidates = error.candidates if isinstance(error, AmbiguousRunId) else None
    headers: dict[str, str] = {}
    if error.retryable:
        after_s = error.retry_after_s if isinstance(error, RateLimited) else RETRY_AFTER_S
        headers["Retry-After"] = str(max(RETRY_AFTER_S, ceil(after_s)))
    if code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="runstore"'
    return respond(problem(code, error.detail, candidates=candidates), headers)


def respond_to_http(error: web.HTTPException) -> web.Response:
    """Answer an error of aiohttp's own."""
    status, headers, code = error.status, {}, "bad_request"
    detail = "the request cannot be understood"
    if status == HTTPStatus.NOT_FOUND:
        code, detail = "not_found", "there is nothing at this address: /v1/openapi.json lists what there is"
    elif isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        code, detail = "method_not_allowed", f"{error.method[:20]} is not possible here: use {allowed}"
        headers["Allow"] = allowed
    elif status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        code, detail = "payload_too_large", "the body is over the limit of this address"
    elif status == HTTPStatus.EXPECTATION_FAILED:
        code, detail = "expectation_failed", "the only expectation that can be met is 100-continue"
    elif status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        code, detail = "unsupported_media_type", "send application/json in UTF-8"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code, detail = "internal_error", "something went wrong here; it was logged"
    return respond(problem(code, detail), headers, close=True)
