"""Make an event of what a publisher tells, by the very rules that the store reads it by. Pure, but for time and ids."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from time import time_ns
from typing import Any, Final, TypedDict
from uuid import uuid4

import msgspec

from runstore.core.errors import InvalidRequest
from runstore.core.event import Event
from runstore.core.status import Status
from runstore.wire.event import decode_event

_ENCODER: Final = msgspec.json.Encoder()


class Told(TypedDict, total=False):
    """The fields of an event that are optional; None is as good as left out.

    `at` ISO 8601 text or a datetime (a naive one is UTC). `output` holds any of `status`, `exit_code`, `stdout`,
    `stderr` and `outputs`. `progress` holds `fraction` (0 to 1) and `message`, and goes with `running` only.
    """

    project_name: str | None
    at: str | datetime | None
    commit_sha: str | None
    attempt: int | None
    error_message: str | None
    output: Mapping[str, Any] | None
    event_id: str | None
    tags: Iterable[str] | None
    progress: Mapping[str, Any] | None
    worker: str | None
    traceparent: str | None


_FIELDS: Final = frozenset(Told.__annotations__)


def make_event(run_id: str, status: Status | str, told: Told) -> Event:
    """Make an event, with an id of its own and the present time where none are told.

    Raises: InvalidRequest, InvalidRunId or PayloadTooLarge, with a sentence that says what to mend; TypeError for a
    field that there is not.
    """
    if not _FIELDS.issuperset(told):
        unknown = told.keys() - _FIELDS
        raise TypeError(f"an event has no field {min(unknown)!r}: there are {', '.join(Told.__annotations__)}")
    at = told.get("at") or None
    if isinstance(at, datetime):
        at = (at.replace(tzinfo=UTC) if at.tzinfo is None else at).isoformat()
    tags = told.get("tags")
    if isinstance(tags, str):
        raise InvalidRequest(f"tags are several texts: give [{tags!r}]")
    fields: dict[str, Any] = {
        **told,
        "run_id": str(run_id),
        "status": str(status),
        "at": at,
        "tags": list(tags) if tags is not None else None,
        "event_id": told.get("event_id") or str(uuid4()),
    }
    text = encode({name: value for name, value in fields.items() if value is not None})
    event, _ = decode_event(text, at_us=time_ns() // 1000)
    return event


def encode(value: object) -> bytes:
    """Write a value as JSON.

    Raises: InvalidRequest where it cannot be written as such.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"it cannot be written as JSON: {str(error)[:200]}") from None
