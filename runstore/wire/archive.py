"""The archive's objects: what they are called, and their bytes.

A run's object is a mark, the length and the digest of its head, the head, and the parts of its output and logs, each
with its own digest in the head: so the head can be read without the rest, and nothing that was torn is taken for whole.
The head holds the fields of the run's hash as they were in Redis. A segment of the index holds rows: the runs
themselves.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.run import HistoryItem, Run
from runstore.wire.record import PROJECTED, Record, decode_history, decode_record

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RUNS: Final = "runs"
INDEX: Final = "index"
DELETED: Final = "deleted"
AUDIT: Final = "audit"
LOGS: Final = b"logs"
DIGEST_BYTES: Final = 16
HOUR_MS: Final = 3600 * 1000
DAY_MS: Final = 24 * 3600 * 1000
ROW_ERROR_CHARACTERS: Final = 1024
"""A longer error message is not in the index: a listing reads it from the run's object."""

_RUN_MARK: Final = b"rsr1"
_ROWS_MARK: Final = b"rsi1"
_PROLOGUE_BYTES: Final = 4 + 4 + DIGEST_BYTES
_LATEST: Final = 10**15 - 1
_PLAIN: Final = re.compile(r"[a-z0-9-]")
_FOLDER_CHARACTERS: Final = 180
_SEGMENT: Final = re.compile(r"(\d{15})-(\d{15})-(\d{15})-[0-9a-f]{8,}")


class Damaged(Exception):
    """An object is not what was written: cut off, or changed."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One part of a run's object: what it is, where it begins behind the head, its length and digest."""

    name: bytes
    start: int
    length: int
    digest: bytes


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The head of a run's object: whose it is, the fields of its hash, and the parts behind it.

    `parts_at` is where the first part begins; it is set by `read_head`.
    """

    packed_id: bytes
    project_name: str
    fields: dict[bytes, bytes]
    parts: tuple[Part, ...] = ()
    parts_at: int = 0

    @property
    def record(self) -> Record:
        """The run, as told to everybody: version 0, for whatever is here was told of long ago."""
        fields = {name: value for name, value in self.fields.items() if name in _NAMES}
        record = decode_record(from_bytes(self.packed_id), fields)
        if record is None:
            raise Damaged("the object holds no run")
        return Record(record.run, 0, record.page)

    @property
    def history(self) -> list[HistoryItem]:
        """The kept events of the run."""
        return decode_history(self.fields)

    def part(self, name: bytes) -> Part | None:
        """Find a part."""
        return next((part for part in self.parts if part.name == name), None)


class Rows(msgspec.Struct, frozen=True):
    """Rows of the index: runs, and which of them have an error message that was left out."""

    runs: tuple[Run, ...]
    cut: tuple[bytes, ...] = ()


class Segment(NamedTuple):
    """The name of a segment, and what it says: when its newest and oldest run were created, and the last one ended."""

    name: str
    newest_ms: int
    oldest_ms: int
    end_ms: int


_NAMES: Final = frozenset(PROJECTED)
_PACK: Final = msgspec.msgpack.Encoder()
_HEAD: Final = msgspec.msgpack.Decoder(Head)
_ROWS: Final = msgspec.msgpack.Decoder(Rows)


def digest(body: bytes) -> bytes:
    """Return what an object or part is known to be whole by."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


def pack_run(packed_id: bytes, project_name: str, fields: Mapping[bytes, bytes], parts: Mapping[bytes, bytes]) -> bytes:
    """Write a run's object."""
    told, start = [], 0
    for name, body in parts.items():
        told.append(Part(name, start, len(body), digest(body)))
        start += len(body)
    head = zstd.compress(_PACK.encode(Head(packed_id, project_name, dict(fields), tuple(told))))
    return b"".join((_RUN_MARK, len(head).to_bytes(4, "big"), digest(head), head, *parts.values()))


def head_bytes(begin: bytes) -> int:
    """Return how many bytes of an object its head takes, by the object's beginning.

    Raises: Damaged.
    """
    if len(begin) < _PROLOGUE_BYTES or begin[:4] != _RUN_MARK:
        raise Damaged("the object is none of a run")
    return _PROLOGUE_BYTES + int.from_bytes(begin[4:8], "big")


def read_head(begin: bytes) -> Head:
    """Read the head of a run's object.

    Needs: as many bytes as `head_bytes` says, or more.

    Raises: Damaged.
    """
    stop = head_bytes(begin)
    packed = begin[_PROLOGUE_BYTES:stop]
    if len(packed) < stop - _PROLOGUE_BYTES or digest(packed) != begin[8:_PROLOGUE_BYTES]:
        raise Damaged("the head of the object is not what was written")
    try:
        return msgspec.structs.replace(_HEAD.decode(zstd.decompress(packed)), parts_at=stop)
    except (msgspec.MsgspecError, zstd.ZstdError) as error:
        raise Damaged(f"the head of the object cannot be read: {error}") from None


def check_part(part: Part, body: bytes) -> bytes:
    """Return a part's bytes. Raises: Damaged where they are not what was written."""
    if digest(body) != part.digest:
        raise Damaged("a part of the object is not what was written")
    return body


def unpack_parts(head: Head, body: bytes) -> dict[bytes, bytes]:
    """Cut all parts out of a whole object. Raises: Damaged."""
    at = head.parts_at
    return {part.name: check_part(part, body[at + part.start : at + part.start + part.length]) for part in head.parts}


def pack_rows(runs: Iterable[Run], already_cut: Sequence[bytes] = ()) -> bytes:
    """Write a segment of the index. `already_cut` are ids of runs whose error message is left out already."""
    rows, cut = [], list(already_cut)
    for run in runs:
        row = msgspec.structs.replace(run, progress=None, traceparent=None)
        if len(run.error_message or "") > ROW_ERROR_CHARACTERS:
            row = msgspec.structs.replace(row, error_message=None)
            cut.append(to_bytes(run.run_id))
        rows.append(row)
    body = zstd.compress(_PACK.encode(Rows(tuple(rows), tuple(cut))))
    return _ROWS_MARK + digest(body) + body


def unpack_rows(body: bytes) -> Rows:
    """Read a segment of the index. Raises: Damaged."""
    stop = len(_ROWS_MARK) + DIGEST_BYTES
    if body[: len(_ROWS_MARK)] != _ROWS_MARK or digest(body[stop:]) != body[len(_ROWS_MARK) : stop]:
        raise Damaged("the segment of the index is not what was written")
    return _ROWS.decode(zstd.decompress(body[stop:]))


def pack_logs(pieces: Sequence[tuple[bytes, bytes, bytes]]) -> bytes:
    """Write the log stream of a run: each piece's place, code and text."""
    return zstd.compress(_PACK.encode(pieces))


def unpack_logs(body: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Read what `pack_logs` wrote."""
    return msgspec.msgpack.decode(zstd.decompress(body), type=list[tuple[bytes, bytes, bytes]])


def project_folder(project_name: str) -> str:
    """Name a project's folder: another one for each project, also where upper and lower case are one."""
    escaped = "".join(c if _PLAIN.fullmatch(c) else f"_{ord(c):02x}" for c in project_name)
    if len(escaped) <= _FOLDER_CHARACTERS:
        return escaped
    return f"{escaped[:100]}__{blake2b(project_name.encode(), digest_size=16).hexdigest()}"


def run_name(project_name: str, packed_id: bytes) -> str:
    """Name a run's object."""
    digits = packed_id.hex()
    return f"{prefix_folder(project_name, digits)}/{digits}"


def prefix_folder(project_name: str, digits: str) -> str:
    """Name the folder of a project's runs that share four digits."""
    return f"{RUNS}/{project_folder(project_name)}/{digits[:4]}".rstrip("/")


def days_folder(project_name: str) -> str:
    """Name the folder of a project's index."""
    return f"{INDEX}/{project_folder(project_name)}"


def day_of(created_ms: int) -> int:
    """Return the day of a time, counted from 1970."""
    return created_ms // DAY_MS


def day_folder(project_name: str, day: int) -> str:
    """Name the folder of a day: later ones come first."""
    return f"{days_folder(project_name)}/{_LATEST // DAY_MS - day:08d}"


def read_day(name: str) -> int | None:
    """Return the day of a folder; None where it is none."""
    last = name.rpartition("/")[2]
    return _LATEST // DAY_MS - int(last) if last.isdigit() else None


def segment_name(project_name: str, runs: Sequence[Run], ends_ms: Iterable[int], random: str) -> str:
    """Name a segment of the index. Needs: runs of one day, one at least."""
    newest, oldest = max(run.created_ms for run in runs), min(run.created_ms for run in runs)
    times = (newest, oldest, max(ends_ms))
    told = "-".join(f"{_LATEST - min(ms, _LATEST):015d}" for ms in times)
    return f"{day_folder(project_name, day_of(newest))}/{told}-{random}"


def read_segment(name: str) -> Segment | None:
    """Read what the name of a segment says; None where it is none."""
    match = _SEGMENT.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    newest, oldest, end = (_LATEST - int(told) for told in match.groups())
    return Segment(name, newest, oldest, end)


def deleted_name(run_id: RunId) -> str:
    """Name what is left of a run that was erased: a hash of its id."""
    return f"{DELETED}/{blake2b(to_bytes(run_id), digest_size=16, person=b'runstore').hexdigest()}"
