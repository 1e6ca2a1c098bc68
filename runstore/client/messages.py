"""The websocket's messages as the client writes and reads them. What it does not know it leaves out of account."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from runstore.core.event import Progress

Events = Literal["terminal", "all"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the gateway: the fields of all kinds, each set where its kind has it."""

    type: str
    id: str | None = None
    cursor: str | None = None
    run: msgspec.Raw = msgspec.Raw()
    run_ids: tuple[str, ...] = ()
    run_id: str = ""
    progress: Progress | None = None
    code: str = ""
    detail: str = ""
    candidates: tuple[Any, ...] = ()
    since: str | None = None


decode_message: Final = msgspec.json.Decoder(Message).decode
_ENCODER: Final = msgspec.json.Encoder()


def subscribe_runs(
    name: str, run_ids: Sequence[str], *, events: Events = "terminal", output: bool = True, cursor: str | None = None
) -> bytes:
    """Write a subscription to runs."""
    return _subscribe({"type": "subscribe", "id": name, "run_ids": list(run_ids), "events": events}, output, cursor)


def subscribe_project(
    name: str, project_name: str, *, events: Events = "terminal", output: bool = True, cursor: str | None = None
) -> bytes:
    """Write a subscription to a project."""
    return _subscribe({"type": "subscribe", "id": name, "project_name": project_name, "events": events}, output, cursor)


def unsubscribe(name: str) -> bytes:
    """Write the end of a subscription."""
    return _ENCODER.encode({"type": "unsubscribe", "id": name})


def _subscribe(message: dict[str, Any], output: bool, cursor: str | None) -> bytes:
    if not output:
        message["output"] = False
    if cursor is not None:
        message["cursor"] = cursor
    return _ENCODER.encode(message)
