"""Events as JSON: what a publisher writes into the field `event` of a stream entry, read and checked."""

from itertools import accumulate
from typing import Annotated, Any, Final

import msgspec

from runstore.core.cap import Output
from runstore.core.errors import InvalidRequest, PayloadTooLarge
from runstore.core.event import (
    MAX_EVENT_BYTES,
    MAX_INPUTS_BYTES,
    MAX_JSON_DEPTH,
    MAX_OUTPUT_BYTES,
    MAX_TAG_CHARACTERS,
    MAX_TAGS,
    Event,
    OutputRef,
    Progress,
    RunRequest,
)
from runstore.core.ids import RunId, check_project_name, parse_run_id
from runstore.core.status import Status
from runstore.core.times import from_iso, to_iso
from runstore.core.trace import read_traceparent
from runstore.wire.explain import explain

Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TAG_CHARACTERS)]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=MAX_TAGS)]
ShortText = Annotated[str, msgspec.Meta(max_length=200)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Commit = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_MARKS: Final = bytes.maketrans(b"{}", b"[]")
_NO_MARKS: Final = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS: Final = bytes.maketrans(b"[]", b"\x01\xff")
_MARKS_AT_ONCE: Final = 1024 * 1024
_AROUND_INPUTS: Final = 1
"""The levels that the event of a run that was asked for has around `inputs` beyond those of the request's body."""


class OutputJson(msgspec.Struct, kw_only=True, gc=False):
    """An output as a publisher tells it; what is left out is empty."""

    status: Status | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    outputs: msgspec.Raw = msgspec.Raw(b"null")


class ProgressJson(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """How far a running run is."""

    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    message: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


class RequestJson(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What a worker needs; only the gateway writes this."""

    inputs: msgspec.Raw = msgspec.Raw(b"{}")
    commit_sha: str | None = None
    branch: str | None = None
    timeout_s: Seconds | None = None
    queue_timeout_s: Seconds | None = None
    fingerprint: str = ""
    traceparent: str | None = None


class PublicEventJson(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An event as anybody may tell it (section 4 of the contract). `run_id` may be left out where an address has it."""

    run_id: str | None = None
    status: Status
    project_name: str | None = None
    at: str | None = None
    commit_sha: Commit | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    error_message: str | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")
    event_id: ShortText | None = None
    tags: Tags | None = None
    progress: ProgressJson | None = None
    worker: ShortText | None = None
    traceparent: str | None = None


class EventJson(PublicEventJson, kw_only=True, omit_defaults=True, gc=False):
    """An event, with what only our own parts add to one.

    `output_ref` (base64 of its packed form), `numbered` and `request` are for the gateway and the publisher;
    `unknown_fields` is how many fields the gateway kept out.
    """

    output_ref: OutputRef | None = None
    numbered: bool = False
    request: RequestJson | None = None
    unknown_fields: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0


class _KnownEventJson(EventJson, kw_only=True, omit_defaults=True, gc=False, forbid_unknown_fields=True):
    """An event without fields that are not known, as nearly all are: it is read in one go."""


PUBLIC_FIELDS: Final = frozenset(PublicEventJson.__struct_fields__)
_KEYS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PUBLIC_EVENT: Final = msgspec.json.Decoder(PublicEventJson)
_EVENT: Final = msgspec.json.Decoder(EventJson)
_KNOWN_EVENT: Final = msgspec.json.Decoder(_KnownEventJson)
_OUTPUT: Final = msgspec.json.Decoder(OutputJson | None)
_ENCODER: Final = msgspec.json.Encoder()
_NO_OUTPUT: Final = b"null"


class EventLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an event may have. The store takes what is within the defaults, so a door may only ask for less."""

    event_bytes: int = MAX_EVENT_BYTES
    output_bytes: int = MAX_OUTPUT_BYTES
    json_depth: int = MAX_JSON_DEPTH


_LIMITS: Final = EventLimits()


def check_depth(text: bytes, what: str, most: int = MAX_JSON_DEPTH) -> None:
    """Check that JSON is not nested deeper than the limit.

    Made of steps over whole texts: a loop over the brackets of 64 MiB would keep everybody else waiting for seconds.

    Raises: InvalidRequest.
    """
    if text.count(b"[") + text.count(b"{") <= most:
        return
    marks = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_MARKS, _NO_MARKS)
    # two quotes side by side, whichever they are, leave all others opening or closing as they were
    marks = marks.replace(b'""', b"")
    # so are two brackets side by side: to take all such pairs away makes everything one level less deep
    limit = most
    while limit and len(fewer := marks.replace(b"[]", b"").replace(b'""', b"")) < len(marks) * 3 // 4:
        marks, limit = fewer, limit - 1
    depth, is_inside = 0, 0
    for begin in range(0, len(marks), _MARKS_AT_ONCE):
        parts = marks[begin : begin + _MARKS_AT_ONCE].split(b'"')
        steps = memoryview(b"".join(parts[is_inside::2]).translate(_STEPS)).cast("b")
        is_inside = (is_inside + len(parts) - 1) % 2
        if max(accumulate(steps, initial=depth)) > limit:
            raise InvalidRequest(f"{what} is nested deeper than {most} levels")
        depth += sum(steps)


def decode_event(
    text: bytes,
    *,
    trusted: bool = True,
    run_id: RunId | None = None,
    at_us: int | None = None,
    limits: EventLimits = _LIMITS,
) -> tuple[Event, int]:
    """Read an event, and count the fields of it that are not known.

    With `trusted` false the fields that only our own parts may write are not known either. `run_id` and
    `at_us` are what holds where the event itself leaves them out.

    Raises: InvalidRequest, InvalidRunId or PayloadTooLarge, with a sentence that says what to mend.
    """
    if len(text) > MAX_EVENT_BYTES + MAX_OUTPUT_BYTES + MAX_INPUTS_BYTES:
        raise PayloadTooLarge(f"an event of {len(text)} bytes is over the limit of {MAX_OUTPUT_BYTES} for its output")
    check_depth(text, "the event", limits.json_depth + (_AROUND_INPUTS if trusted else 0))
    told, unknown = _told(text, trusted=trusted)
    rest = len(text) - len(bytes(told.output))
    if isinstance(told, EventJson):
        unknown += told.unknown_fields
        rest -= len(bytes(told.request.inputs)) if told.request else 0
    if rest > limits.event_bytes:
        raise PayloadTooLarge(f"the event without its output is {rest} bytes, over the limit of {limits.event_bytes}")
    event = _checked(told, run_id, at_us, limits.output_bytes)
    return (_with_our_own(event, told) if isinstance(told, EventJson) else event), unknown


def _told(text: bytes, *, trusted: bool) -> tuple[PublicEventJson, int]:
    try:
        if trusted:
            try:
                return _KNOWN_EVENT.decode(text), 0
            except msgspec.MsgspecError:
                pass  # what it is, the long way tells
        keys = _KEYS.decode(text)
        told = _EVENT.decode(text) if trusted else _PUBLIC_EVENT.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the event cannot be read: {explain(error, text)}") from None
    return told, sum(key not in told.__struct_fields__ for key in keys)


def _checked(told: PublicEventJson, run_id: RunId | None, at_us: int | None, output_bytes: int) -> Event:
    if told.run_id is not None:
        run_id = parse_run_id(told.run_id)
    if run_id is None:
        raise InvalidRequest("the event cannot be read: it has no run_id")
    if told.project_name is not None:
        check_project_name(told.project_name)
    if told.progress is not None and told.status is not Status.RUNNING:
        raise InvalidRequest("progress goes with the status running only")
    return Event(
        run_id=run_id,
        status=told.status,
        project_name=told.project_name,
        at_us=from_iso(told.at) if told.at is not None else at_us,
        commit_sha=told.commit_sha,
        attempt=told.attempt,
        error_message=told.error_message,
        output=compact_output(bytes(told.output), told.status, output_bytes),
        event_id=told.event_id,
        tags=told.tags or (),
        progress=Progress(fraction=told.progress.fraction, message=told.progress.message) if told.progress else None,
        worker=told.worker,
        traceparent=read_traceparent(told.traceparent),
    )


def _with_our_own(event: Event, told: EventJson) -> Event:
    if told.output_ref is None and not told.numbered and told.request is None:
        return event
    return msgspec.structs.replace(
        event,
        output_ref=told.output_ref,
        numbered=told.numbered,
        request=read_request(told.request) if told.request is not None else None,
    )


def read_request(told: RequestJson) -> RunRequest:
    """Read what a worker needs."""
    return RunRequest(**{name: getattr(told, name) for name in RunRequest.__struct_fields__})


def request_json(request: RunRequest) -> RequestJson:
    """Write what a worker needs, as `read_request` reads it."""
    return RequestJson(**{name: getattr(request, name) for name in RunRequest.__struct_fields__})


def compact_output(text: bytes, status: Status, max_bytes: int = MAX_OUTPUT_BYTES) -> bytes | None:
    """Bring an output as it was told into the five fields, in order and compact (None: `null` was told).

    Raises: InvalidRequest or PayloadTooLarge.
    """
    if text == _NO_OUTPUT:
        return None
    try:
        told = _OUTPUT.decode(text)
        if told is None:
            return None
        outputs: Any = msgspec.json.decode(told.outputs)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"output cannot be read: {explain(error, text)}") from None
    whole = encode_output(
        Output(
            status=told.status or status,
            exit_code=told.exit_code,
            stdout=told.stdout or "",
            stderr=told.stderr or "",
            outputs=msgspec.Raw(_ENCODER.encode(outputs)),
        )
    )
    if len(whole) > max_bytes:
        raise PayloadTooLarge(f"an output of {len(whole)} bytes is over the limit of {max_bytes}")
    return whole


def encode_output(output: Output) -> bytes:
    """Write an output as compact UTF-8 JSON."""
    return _ENCODER.encode(output)


def encode_event(event: Event, *, unknown_fields: int = 0) -> bytes:
    """Write an event as the JSON that `decode_event` reads. `unknown_fields` were kept out of it, to be counted."""
    request = event.request
    return _ENCODER.encode(
        EventJson(
            run_id=event.run_id,
            status=event.status,
            project_name=event.project_name,
            at=to_iso(event.at_us) if event.at_us is not None else None,
            commit_sha=event.commit_sha,
            attempt=event.attempt,
            error_message=event.error_message,
            output=msgspec.Raw(event.output or b"null"),
            event_id=event.event_id,
            tags=event.tags or None,
            progress=(
                ProgressJson(fraction=event.progress.fraction, message=event.progress.message)
                if event.progress
                else None
            ),
            worker=event.worker,
            traceparent=event.traceparent,
            output_ref=event.output_ref,
            numbered=event.numbered,
            request=request_json(request) if request else None,
            unknown_fields=unknown_fields,
        )
    )
