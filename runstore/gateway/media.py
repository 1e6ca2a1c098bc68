"""Media types: which one a client wants of those an address gives, and whether what it sends is JSON.

A body that says nothing of its type is taken for JSON, and so is one with a type that common clients set unasked
(`curl -d`, `fetch` and others): only a type that somebody chose, and that is not JSON, is refused.
"""

from typing import Final

from aiohttp import web

from runstore.core.errors import NotAcceptable
from runstore.gateway.problems import HttpProblem

_SET_UNASKED: Final = frozenset({"text/plain", "application/octet-stream", "application/x-www-form-urlencoded"})
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})


def check_json(request: web.Request) -> None:
    """Check that the body does not say that it is something else than JSON in UTF-8.

    Raises: HttpProblem (415).
    """
    if not request.headers.get("Content-Type", "").strip():
        return
    media_type, charset = request.content_type, (request.charset or "utf-8").lower()
    is_json = media_type.endswith(("/json", "+json")) or media_type in _SET_UNASKED
    if not is_json or charset not in _CHARSETS:
        raise HttpProblem("unsupported_media_type", "send application/json in UTF-8", close=True)


def negotiate(request: web.Request, *offered: str) -> str:
    """Choose the media type that the client likes best; the first offered where it does not care.

    Raises: NotAcceptable.
    """
    told = ",".join(request.headers.getall("Accept", ()))
    if not told.strip():
        return offered[0]
    wishes = [_read_wish(part) for part in told.split(",") if part.strip()]
    best, best_weight = "", 0.0
    for media_type in offered:
        weight = _weigh(media_type, wishes)
        if weight > best_weight:
            best, best_weight = media_type, weight
    if not best:
        raise NotAcceptable(f"this address gives {' or '.join(offered)}")
    return best


def _read_wish(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = min(1.0, max(0.0, float(value)))
            except ValueError:
                weight = 0.0
    return media_type, weight if weight == weight else 0.0  # noqa: PLR0124 - not a number is no wish


def _weigh(media_type: str, wishes: list[tuple[str, float]]) -> float:
    family = media_type.partition("/")[0] + "/*"
    for pattern in (media_type, family, "*/*"):
        weights = [weight for wish, weight in wishes if wish == pattern]
        if weights:
            return max(weights)
    return 0.0
