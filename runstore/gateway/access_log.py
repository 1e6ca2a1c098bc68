"""The access log: one line a request, and nothing in it that could be a token somebody put into an address."""

import logging
import re
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from runstore.core.token import MIN_FIXED_CHARACTERS

_SHOWN_CHARACTERS: Final = 200
_COULD_BE_TOKEN: Final = re.compile(rf"[^/]{{{MIN_FIXED_CHARACTERS},}}")
_RUN_ID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LEFT: Final = 4


class AccessLog(AbstractAccessLogger):
    """One line a request: never its query, which may hold what a caller should not have put there, nor its headers."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log one request."""
        self.logger.info(
            "request",
            extra={
                "method": request.method,
                "path": masked_path(request.path),
                "status": response.status,
                "bytes": response.body_length,
                "ms": round(time * 1000, 2),
                "peer": request.remote,
            },
        )

    @property
    def enabled(self) -> bool:
        """Whether anybody reads the log."""
        return self.logger.isEnabledFor(logging.INFO)


def masked_path(path: str) -> str:
    """Write the path of an address for a log.

    Any piece as long as a token, and no run id with its dashes, is cut to its first characters: a token that somebody
    fixed has no form to be known by.
    """
    return _COULD_BE_TOKEN.sub(_mask, path)[:_SHOWN_CHARACTERS]


def _mask(found: re.Match[str]) -> str:
    piece = found[0]
    return piece if _RUN_ID.fullmatch(piece) else f"{piece[:_LEFT]}…"
