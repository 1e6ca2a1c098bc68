"""Times are integers of microseconds since 1970 in UTC inside, and ISO 8601 with `+00:00` outside."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from runstore.core.errors import InvalidRequest

_ZERO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO_NAIVE: Final = _ZERO.replace(tzinfo=None)
_MICROSECOND: Final = timedelta(microseconds=1)
_LAST_US: Final = (datetime.max.replace(tzinfo=UTC) - _ZERO) // _MICROSECOND


def to_iso(at_us: int) -> str:
    """Write a time as the contract shows it: `+00:00`, microseconds only where they are not zero."""
    seconds, rest_us = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{rest_us:06}+00:00" if rest_us else f"{_second(seconds)}+00:00"


@lru_cache(1024)
def _second(seconds: int) -> str:
    # what is told of at a time is mostly of that time
    return (_ZERO_NAIVE + timedelta(seconds=seconds)).isoformat()


def from_datetime(at: datetime) -> int:
    """Count the microseconds of an aware time; a naive one is taken as UTC."""
    aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    since = aware - _ZERO
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_iso(text: str) -> int:
    """Read an ISO 8601 time; one without an offset is taken as UTC.

    Raises: InvalidRequest, with the text, where it is no time or lies outside the years 1970 to 9999.
    """
    try:
        at_us = from_datetime(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{text[:40]!r} is no ISO 8601 time such as 2026-04-28T10:00:00+00:00") from None
    if at_us < 0:
        raise InvalidRequest(f"{text[:40]!r} lies before 1970")
    if at_us > _LAST_US:
        raise InvalidRequest(f"{text[:40]!r} lies after the year 9999")
    return at_us
