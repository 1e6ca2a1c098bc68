"""Headers of a request, read and checked: preferences, entity tags and ranges."""

import re
from typing import Final

from aiohttp import web

from runstore.core.errors import InvalidRequest
from runstore.core.trace import read_traceparent
from runstore.gateway.problems import HttpProblem

_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_PREFERENCE: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s;,"]*)))?')
_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})", re.IGNORECASE)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


def read_wait(request: web.Request, most_s: int) -> int | None:
    """Read `Prefer: wait=N` (None: not asked for). Other preferences are let be.

    Raises: InvalidRequest where N is none of 1 to `most_s`.
    """
    for line in request.headers.getall("Prefer", ()):
        for part in line.split(","):
            match = _PREFERENCE.match(part)
            if match is None or match[1].lower() != "wait":
                continue
            told = match[2] if match[2] is not None else match[3] or ""
            if not (told.isascii() and told.isdigit() and len(told) < 10 and 1 <= int(told) <= most_s):
                raise InvalidRequest(f"Prefer: wait={told[:20]!r} is not possible: give 1 to {most_s} seconds")
            return int(told)
    return None


def matches(request: web.Request, etag: str) -> bool:
    """Whether `If-None-Match` names the entity tag (compared weakly, as it must be)."""
    told = request.headers.get("If-None-Match")
    if told is None:
        return False
    lines = request.headers.getall("If-None-Match")
    return any(line.strip() == "*" or etag in _TAG.findall(line) for line in lines)


def read_range(request: web.Request, size: int, etag: str) -> tuple[int, int] | None:
    """Read which bytes are asked for, as start and stop (None: all of them).

    Raises: HttpProblem (416) where it is not one range of what there is.
    """
    told = request.headers.get("Range")
    if told is None or not told.strip().lower().startswith("bytes"):
        return None
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != etag:
        return None
    match = _RANGE.fullmatch(told.strip())
    if match is None or not (match[1] or match[2]):
        raise _unsatisfiable(size, "give one range, such as 'bytes=0-1023' or 'bytes=-1024'")
    if not match[1]:
        length = min(int(match[2]), size)
        start, stop = size - length, size
    else:
        start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= stop:
        raise _unsatisfiable(size, f"the range lies outside the {size} bytes there are")
    return start, stop


def read_idempotency_key(request: web.Request) -> str | None:
    """Read the `Idempotency-Key`.

    Raises: InvalidRequest where it is not 1 to 255 visible ASCII characters, or given twice.
    """
    told = request.headers.getall("Idempotency-Key", ())
    if not told:
        return None
    if len(told) > 1 or not _KEY.fullmatch(told[0]):
        raise InvalidRequest("Idempotency-Key must be given once: 1 to 255 visible ASCII characters, no spaces")
    return told[0]


def read_trace(request: web.Request) -> str | None:
    """Read the `traceparent` (W3C Trace Context); one that is not valid is as good as none, as that says."""
    told = request.headers.getall("traceparent", ())
    return read_traceparent(told[0]) if len(told) == 1 else None


def _unsatisfiable(size: int, detail: str) -> HttpProblem:
    return HttpProblem("range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
