"""The id of a request: taken from who asks where it can be one, made here else, and told in answers and in the log.

It is kept where the work for the request finds it, so that whatever is logged on its way has it too.
"""

import logging
import re
from contextvars import ContextVar
from random import getrandbits
from typing import Final

from runstore.core.token import MIN_FIXED_CHARACTERS

HEADER: Final = "X-Request-Id"
_MADE_BITS: Final = 64
_SANE: Final = re.compile(
    rf"[A-Za-z0-9._-]{{1,{MIN_FIXED_CHARACTERS - 1}}}"
    r"|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{32}|[0-7][0-9A-HJKMNP-TV-Z]{25}"
)
"""Too short for a token, or a UUID, or 32 hex digits (as of nginx and of traces), or a ULID: what is of no such form
may be anything that somebody put there by mistake, and is not repeated."""

_current: ContextVar[str | None] = ContextVar("runstore_request_id", default=None)


def begin(told: str | None) -> str:
    """Begin a request, and return its id; `told` is the one that came with it."""
    request_id = told if told is not None and _SANE.fullmatch(told) else make()
    _current.set(request_id)
    return request_id


def make() -> str:
    """Make the id of a request that came without one."""
    return f"{getrandbits(_MADE_BITS):016x}"


def current() -> str | None:
    """Return the id of the request that is worked for here, if any."""
    return _current.get()


def add_to(record: logging.LogRecord) -> bool:
    """Add the id to a line of the log: a filter that lets everything pass."""
    request_id = _current.get()
    if request_id is not None and not hasattr(record, "request_id"):
        record.request_id = request_id
    return True
