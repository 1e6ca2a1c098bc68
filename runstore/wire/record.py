"""A run as a hash: short field names and short values, so that Redis keeps it in its compact form.

Fields: `s` status, `p` project, `b` created_ms, `r` recorded_ms, `v` the number of the commit that wrote it, `g` its
page in the listing, and where set `n` run_number, `c` commit (20 raw bytes) or `C` (text), `a` started_us, `z`
finished_us, `x` error_message, `k` attempt, `o` output, `l` late output, `T` tags, `f` progress, `t` traceparent,
`q` fingerprint, `e` events kept, `i` events ignored. History items are the fields `0`, `1`, `2` … in order: the
stream's milliseconds and sequence, the status's code, microseconds from there to when the event says it happened, and
what else was told of it, as far as anything was.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

from runstore.core.event import OutputRef, Progress
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status

_CODES: Final = {status: b"%d" % code for code, status in enumerate(Status)}
_ORDER: Final = tuple(Status)
_NUMBERS: Final = {status: number for number, status in enumerate(_ORDER)}
_STATUSES: Final = {code: status for status, code in _CODES.items()}
_SHA: Final = re.compile(r"[0-9a-f]{40}")
_PACK: Final = msgspec.msgpack.Encoder()
_OUTPUT: Final = msgspec.msgpack.Decoder(OutputRef)
_TAGS: Final = msgspec.msgpack.Decoder(tuple[str, ...])
_PROGRESS: Final = msgspec.msgpack.Decoder(Progress)
PROJECTED: Final = (
    *(b"s", b"p", b"b", b"r", b"v", b"g", b"n", b"c", b"C", b"a", b"z", b"x", b"k", b"o", b"l", b"T", b"f", b"t", b"q"),
    *(b"e", b"i"),
)
"""The fields of the record without its history, for a read that leaves the history out."""

ENDED: Final = b"z"
"""The field that a run has once it has ended."""


class Record(NamedTuple):
    """A run with what its storing needs: the number of the commit that wrote it, and its page in the listing."""

    run: Run
    version: int
    page: int


def encode_record(record: Record) -> dict[bytes, bytes]:  # noqa: PLR0912 - one branch a field
    """Write a record as hash fields; a field that is not set is left out."""
    run = record.run
    fields = {
        b"s": _CODES[run.status],
        b"p": run.project_name.encode(),
        b"b": b"%d" % run.created_ms,
        b"r": b"%d" % run.recorded_ms,
        b"v": b"%d" % record.version,
        b"g": b"%d" % record.page,
        b"e": b"%d" % run.events,
    }
    if run.run_number is not None:
        fields[b"n"] = b"%d" % run.run_number
    if run.commit_sha is not None and _SHA.fullmatch(run.commit_sha):
        fields[b"c"] = bytes.fromhex(run.commit_sha)
    elif run.commit_sha is not None:
        fields[b"C"] = run.commit_sha.encode()
    if run.started_us is not None:
        fields[b"a"] = b"%d" % run.started_us
    if run.finished_us is not None:
        fields[ENDED] = b"%d" % run.finished_us
    if run.error_message is not None:
        fields[b"x"] = run.error_message.encode()
    if run.attempt != 1:
        fields[b"k"] = b"%d" % run.attempt
    if run.output is not None:
        fields[b"o"] = _PACK.encode(run.output)
    if run.late_output is not None:
        fields[b"l"] = _PACK.encode(run.late_output)
    if run.tags:
        fields[b"T"] = _PACK.encode(run.tags)
    if run.progress is not None:
        fields[b"f"] = _PACK.encode(run.progress)
    if run.traceparent is not None:
        fields[b"t"] = run.traceparent.encode()
    if run.fingerprint:
        fields[b"q"] = run.fingerprint.encode()
    if run.ignored:
        fields[b"i"] = b"%d" % run.ignored
    return fields


def changed_fields(before: Record | None, after: Record) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return the fields to set and those to delete, so that the stored record becomes `after`."""
    new = encode_record(after)
    if before is None:
        return new, []
    old = encode_record(before)
    return {name: value for name, value in new.items() if old.get(name) != value}, [n for n in old if n not in new]


def decode_record(run_id: RunId, fields: Mapping[bytes, bytes]) -> Record | None:
    """Read a record from hash fields; None where there is none."""
    if b"s" not in fields:
        return None
    get = fields.get
    commit, text = get(b"c"), get(b"C")
    error, tags, progress, trace = get(b"x"), get(b"T"), get(b"f"), get(b"t")
    output, late = get(b"o"), get(b"l")
    run = Run(
        run_id=run_id,
        project_name=fields[b"p"].decode(),
        status=_STATUSES[fields[b"s"]],
        created_ms=int(fields[b"b"]),
        recorded_ms=int(fields[b"r"]),
        run_number=_int(get(b"n")),
        commit_sha=commit.hex() if commit is not None else text.decode() if text is not None else None,
        started_us=_int(get(b"a")),
        finished_us=_int(get(b"z")),
        error_message=error.decode() if error is not None else None,
        attempt=int(get(b"k", b"1")),
        output=_OUTPUT.decode(output) if output is not None else None,
        late_output=_OUTPUT.decode(late) if late is not None else None,
        tags=_TAGS.decode(tags) if tags is not None else (),
        progress=_PROGRESS.decode(progress) if progress is not None else None,
        traceparent=trace.decode() if trace is not None else None,
        fingerprint=get(b"q", b"").decode(),
        events=int(get(b"e", b"0")),
        ignored=int(get(b"i", b"0")),
    )
    return Record(run=run, version=int(fields[b"v"]), page=int(fields[b"g"]))


def _int(value: bytes | None) -> int | None:
    return int(value) if value is not None else None


class _Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    ms: int
    seq: int
    code: Annotated[int, msgspec.Meta(ge=0, lt=len(_ORDER))]
    after_us: int
    attempt: int = 1
    ignored: str = ""
    worker: str | None = None
    error_message: str | None = None
    event_id: str | None = None


_ITEM: Final = msgspec.msgpack.Decoder(_Item)
_PLAIN: Final = [1, "", None, None, None]


def encode_item(item: HistoryItem) -> bytes:
    """Write one history item: most tell nothing beyond what became of the run and when."""
    code = _NUMBERS[item.status]
    if (
        item.attempt == 1
        and not item.ignored
        and item.worker is None
        and item.error_message is None
        and item.event_id is None
    ):
        return _PACK.encode((item.ms, item.seq, code, item.at_us - item.ms * 1000))
    rest = [item.attempt, item.ignored, item.worker, item.error_message, item.event_id]
    while rest and rest[-1] == _PLAIN[len(rest) - 1]:
        rest.pop()
    return _PACK.encode([item.ms, item.seq, code, item.at_us - item.ms * 1000, *rest])


def decode_history(fields: Mapping[bytes, bytes]) -> list[HistoryItem]:
    """Read the history from all fields of the hash, in order."""
    numbered: Iterable[tuple[int, bytes]] = ((int(name), value) for name, value in fields.items() if name.isdigit())
    return [_read_item(_ITEM.decode(value)) for _, value in sorted(numbered)]


def _read_item(kept: _Item) -> HistoryItem:
    return HistoryItem(
        ms=kept.ms,
        seq=kept.seq,
        status=_ORDER[kept.code],
        at_us=kept.ms * 1000 + kept.after_us,
        attempt=kept.attempt,
        ignored=kept.ignored,
        worker=kept.worker,
        error_message=kept.error_message,
        event_id=kept.event_id,
    )
