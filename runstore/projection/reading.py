"""Stream entries as they were found, read into entries with events or dead letters; nothing is ever thrown."""

from collections.abc import Mapping
from typing import Final

import msgspec

from runstore.core.errors import RunstoreError
from runstore.core.event import Entry, EntryId, OutputRef
from runstore.core.partition import partition_of
from runstore.wire.event import decode_event

DEAD_EVENT_BYTES: Final = 64 * 1024
MAX_TOKEN_BYTES: Final = 32
MAX_CHUNKS: Final = 65
_NAMES: Final = msgspec.json.Decoder(frozenset[str])


class Heard(msgspec.Struct, kw_only=True, gc=False):
    """An entry that could be read. `text` is what a dead letter would keep of it; `view` its output, where small."""

    entry: Entry
    text: bytes
    unknown_fields: int = 0
    view: bytes | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry that is not folded, with the beginning of what it held, and why."""

    entry_id: EntryId
    text: bytes
    reason: str
    is_refused: bool = False


def read_entry(
    entry_id: EntryId, fields: Mapping[bytes, bytes], *, partition: int, partitions: int
) -> Heard | DeadLetter:
    """Read a stream entry; what is no event of this partition becomes a dead letter."""
    text = fields.get(b"event")
    if text is None:
        told = b" ".join(fields)[:DEAD_EVENT_BYTES]
        return DeadLetter(entry_id=entry_id, text=told, reason="the entry has no field named event")
    reason = "the event cannot be read"
    try:
        stamp = fields.get(b"may_write")
        may_write = _NAMES.decode(stamp) if stamp is not None else None
        event, unknown = decode_event(text)
        home = partition_of(event.run_id, partitions)
        if home == partition and (event.output_ref is None or _can_be(event.output_ref)):
            entry = Entry(entry_id=entry_id, event=event, may_write=may_write)
            return Heard(entry=entry, text=text, unknown_fields=unknown)
        reason = f"the run belongs to partition {home}" if home != partition else "output_ref names no output"
    except RunstoreError as error:
        reason = error.detail
    except Exception as error:  # noqa: BLE001 - whatever a stranger wrote must not hold up what is behind it
        reason = f"the event cannot be read: {type(error).__name__}"
    return DeadLetter(entry_id=entry_id, text=text[:DEAD_EVENT_BYTES], reason=reason)


def _can_be(ref: OutputRef) -> bool:
    return 0 < len(ref.token) <= MAX_TOKEN_BYTES and 0 <= ref.chunks <= MAX_CHUNKS and ref.output_bytes >= 0
