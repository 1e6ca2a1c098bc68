"""What a browser asks before it lets a page of another origin call us, and reads in every answer after that.

Who is let in, the door decides by `allowed_origins`; here it is only said in the browser's words. A browser asks
beforehand without a token, so that answer is the same for every address.
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from runstore.gateway.context import SERVICES

_BEFOREHAND: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Mcp-Method, Mcp-Name,"
        " MCP-Protocol-Version, Prefer, Range, X-Request-Id"
    ),
    "Access-Control-Max-Age": "600",
}
_READABLE: Final = (
    "Content-Range, Date, ETag, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After,"
    " Runstore-Cursor, WWW-Authenticate, X-Request-Id"
)


def asks_beforehand(request: web.Request) -> bool:
    """Whether a browser asks what a page of another origin may send."""
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


def answer_beforehand() -> web.Response:
    """Answer what a page of an origin that is let in may send."""
    return web.Response(status=204, headers=_BEFOREHAND)


def let_read(request: web.Request, headers: CIMultiDict[str]) -> None:
    """Let a page of an origin that is let in read the answer."""
    origin = request.headers.get("Origin")
    if origin is None:
        return
    allowed = request.app[SERVICES].config.allowed_origins
    if origin in allowed or "*" in allowed:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _READABLE
        headers.add("Vary", "Origin")
