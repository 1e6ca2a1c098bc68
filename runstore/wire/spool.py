"""The bytes of a spool file: a head, then records, each found again behind damage.

The head is `RUNSPOOL`, a version, how far the records were delivered (with a checksum of its own: it is overwritten in
place) and which store they are for. A record is a mark, its length, the CRC-32 of what follows, and one event as JSON,
with a field `hold` more where its run is tracked: who delivers it sees to the run's lease.
A record that was cut short by a crash is recognised by its length or checksum; what follows other damage is found by
the next mark whose record is whole.
"""

import struct
import zlib
from collections.abc import Iterator
from mmap import mmap
from typing import Final, NamedTuple

import msgspec

from runstore.core.event import Event, Hold
from runstore.wire.event import decode_event, encode_event

_HEAD: Final = struct.Struct("<8sHHQI")
_DELIVERED: Final = struct.Struct("<QI")
_RECORD: Final = struct.Struct("<4sII")
_MAGIC: Final = b"RUNSPOOL"
_VERSION: Final = 1
_MARK: Final = b"\xf7ev\x1e"
DELIVERED_AT: Final = 12
"""Where in the file the place of the first record that was not delivered yet is written."""
MOST_LABEL_BYTES: Final = 500


class _Held(msgspec.Struct, gc=False):
    hold: Hold | None = None


_HELD: Final = msgspec.json.Decoder(_Held)


class Head(NamedTuple):
    """What a spool file begins with. `delivered` is the place of the first record that was not delivered."""

    label: str
    delivered: int
    length: int


class Span(NamedTuple):
    """A record found in a file: its event, and where the next one begins. `skipped` bytes before it were damaged."""

    event: bytes
    end: int
    skipped: int


def encode_head(label: str) -> bytes:
    """Write the head of a new file."""
    text = label.encode()[:MOST_LABEL_BYTES]
    length = _HEAD.size + len(text)
    return _HEAD.pack(_MAGIC, _VERSION, len(text), length, _crc_of(length)) + text


def decode_head(data: bytes | mmap) -> Head | None:
    """Read a head; None where the file is none of ours. A place that makes no sense is the first record's."""
    if len(data) < _HEAD.size:
        return None
    magic, version, label_length, delivered, crc = _HEAD.unpack(data[: _HEAD.size])
    length = _HEAD.size + label_length
    if magic != _MAGIC or version != _VERSION or len(data) < length:
        return None
    sensible = crc == _crc_of(delivered) and length <= delivered <= len(data)
    label = data[_HEAD.size : length].decode("utf-8", "replace")
    return Head(label=label, delivered=delivered if sensible else length, length=length)


def encode_delivered(place: int) -> bytes:
    """Write what lies at DELIVERED_AT."""
    return _DELIVERED.pack(place, _crc_of(place))


def encode_waiting(event: Event) -> bytes:
    """Write an event that is to wait."""
    text = encode_event(event)
    if event.hold is None:
        return text
    return text[:-1] + b',"hold":' + msgspec.json.encode(event.hold) + b"}"


def decode_waiting(text: bytes) -> Event:
    """Read what `encode_waiting` wrote. Raises: InvalidRequest, InvalidRunId or PayloadTooLarge."""
    event, unknown = decode_event(text)
    if not unknown:
        return event
    try:
        return msgspec.structs.replace(event, hold=_HELD.decode(text).hold)
    except msgspec.MsgspecError:  # another version's
        return event


def encode_record(event: bytes) -> bytes:
    """Write a record."""
    return _RECORD.pack(_MARK, len(event), zlib.crc32(event)) + event


def record_bytes(event: bytes) -> int:
    """Return how long an event's record is."""
    return _RECORD.size + len(event)


def read_records(data: bytes | mmap, begin: int) -> Iterator[Span]:
    """Find the records from a place on; whatever is behind the last one is damage, or a tail that a crash cut off."""
    place = start = begin
    while (place := data.find(_MARK, place)) >= 0:
        event = _event_at(data, place)
        if event is None:
            place += 1
            continue
        end = place + record_bytes(event)
        yield Span(event=event, end=end, skipped=place - start)
        place = start = end


def _event_at(data: bytes | mmap, place: int) -> bytes | None:
    if place + _RECORD.size > len(data):
        return None
    _, length, crc = _RECORD.unpack(data[place : place + _RECORD.size])
    begin = place + _RECORD.size
    if begin + length > len(data):
        return None
    event = data[begin : begin + length]
    return event if zlib.crc32(event) == crc else None


def _crc_of(number: int) -> int:
    return zlib.crc32(struct.pack("<Q", number))
