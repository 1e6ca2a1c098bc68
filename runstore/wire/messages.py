"""The messages of the websocket protocol `runstore.v1`, and the limits a client is held to."""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from runstore.core.errors import InvalidRequest, PayloadTooLarge
from runstore.core.event import MAX_JSON_DEPTH, Progress
from runstore.core.run import Run
from runstore.wire.event import check_depth
from runstore.wire.explain import explain

SUBPROTOCOL: Final = "runstore.v1"
BEARER_SUBPROTOCOL: Final = "runstore.bearer."
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_RUN_IDS: Final = 1000
MAX_SUBSCRIPTIONS: Final = 100
MAX_ID_CHARACTERS: Final = 128


class MessageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one message of a client may have."""

    message_bytes: int = MAX_MESSAGE_BYTES
    run_ids: int = MAX_RUN_IDS
    json_depth: int = MAX_JSON_DEPTH


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe"):
    """Ask to hear runs, or a project. `cursor` resumes where a subscription stood."""

    id: str
    run_ids: tuple[str, ...] | None = None
    project_name: str | None = None
    events: Literal["terminal", "all"] = "terminal"
    output: bool = True
    cursor: str | None = None


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, tag="unsubscribe"):
    """Ask to hear of a subscription no longer."""

    id: str


class SubscribedMessage(msgspec.Struct, frozen=True, kw_only=True, tag="subscribed"):
    """A subscription stands. `unknown` are the full ids that were not heard of yet."""

    id: str
    run_ids: tuple[str, ...]
    unknown: tuple[str, ...]
    cursor: str


class ProgressMessage(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a running run is."""

    id: str
    run_id: str
    progress: Progress


class DoneMessage(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """Every run of the subscription has ended, and the subscription is over."""

    id: str


class ErrorMessage(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """What a client sent cannot be done. `id` is null where none could be read."""

    id: str | None
    code: str
    detail: str


class ResetMessage(msgspec.Struct, frozen=True, kw_only=True, tag="reset"):
    """Some of what happened cannot be told: catch up by what has finished after `since`."""

    id: str
    since: str
    detail: str


ClientMessage = Subscribe | Unsubscribe
ServerMessage = SubscribedMessage | ProgressMessage | DoneMessage | ErrorMessage | ResetMessage


class _Named(msgspec.Struct, frozen=True):
    id: object = None


_DECODER: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(Subscribe | Unsubscribe)
_NAMED: Final = msgspec.json.Decoder(_Named)
_ENCODER: Final = msgspec.json.Encoder()
_LIMITS: Final = MessageLimits()


def decode_message(text: str, limits: MessageLimits = _LIMITS) -> ClientMessage:
    """Read a client's message.

    Raises: InvalidRequest or PayloadTooLarge, with a sentence that says what to mend.
    """
    packed = text.encode()
    if len(packed) > limits.message_bytes:
        raise PayloadTooLarge(f"the message has {len(packed)} bytes, over the limit of {limits.message_bytes}")
    check_depth(packed, "the message", limits.json_depth)
    try:
        message = _DECODER.decode(packed)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"the message cannot be read: {explain(error, packed)}") from None
    _check_id(message.id)
    if isinstance(message, Subscribe):
        _check_subscribe(message, limits.run_ids)
    return message


def named_id(text: str) -> str | None:
    """Return the `id` of a message that breaks a rule elsewhere, so that the client knows which it was."""
    try:
        check_depth(text.encode(), "the message")
        told = _NAMED.decode(text).id
    except (msgspec.MsgspecError, InvalidRequest, RecursionError):
        return None
    return told if isinstance(told, str) and len(told) <= MAX_ID_CHARACTERS else None


def encode_message(message: ServerMessage) -> bytes:
    """Write a server's message."""
    return _ENCODER.encode(message)


def run_head(subscription_id: str, cursor: str, traceparent: str | None = None) -> bytes:
    """Write a `run` message up to its run; the run's JSON and a closing brace complete it."""
    trace = b'"traceparent":"%b",' % traceparent.encode() if traceparent is not None else b""
    return b'{"type":"run","id":%b,"cursor":"%b",%b"run":' % (
        _ENCODER.encode(subscription_id),
        cursor.encode(),
        trace,
    )


def done_text(subscription_id: str) -> bytes:
    """Write that a subscription is over."""
    return b'{"type":"done","id":%b}' % _ENCODER.encode(subscription_id)


def progress_text(subscription_id: str, run: Run) -> bytes:
    """Write how far a run is. Needs: that it says so."""
    assert run.progress is not None
    return encode_message(ProgressMessage(id=subscription_id, run_id=run.run_id, progress=run.progress))


def unique(run_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the ids once each, in the order they first came."""
    return tuple(dict.fromkeys(run_ids))


def _check_id(subscription_id: str) -> None:
    if not 1 <= len(subscription_id) <= MAX_ID_CHARACTERS:
        raise InvalidRequest(f"id must have 1 to {MAX_ID_CHARACTERS} characters")


def _check_subscribe(message: Subscribe, most: int) -> None:
    if (message.run_ids is None) == (message.project_name is None):
        raise InvalidRequest("a subscription names either run_ids or a project_name")
    if message.run_ids is None:
        return
    if not message.run_ids:
        raise InvalidRequest("run_ids must name at least one run")
    if len(message.run_ids) > most:
        raise InvalidRequest(f"{len(message.run_ids)} run ids are more than the limit of {most} in one subscription")
