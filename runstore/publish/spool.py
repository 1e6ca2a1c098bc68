"""The spool: a publisher's events on its own disk while the store is away, one file a process.

An event is safe when `append` returns: written with a checksum, and fsynced. The file exists only while something waits
in it, and its lock dies with the process, so that another may adopt what was left. When a process dies on any line of
this file, what was appended is still there, and at most what had been delivered is delivered again, which does no harm.

Events are read in the order in which they came. Where the store refuses some, since their partition is damaged, they
stay in their places and hold up nobody: the rest is read first, and then it is their turn again.
"""

import errno
import logging
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from runstore.core.errors import RunstoreError
from runstore.core.ids import RunId
from runstore.publish.spool_file import (
    SUFFIX,
    Range,
    fsync_folder,
    head_of,
    locked,
    make_folder,
    put_new,
    whole_until,
    write,
)
from runstore.wire.spool import (
    DELIVERED_AT,
    Span,
    encode_delivered,
    encode_head,
    encode_record,
    read_records,
    record_bytes,
)

_LOG: Final = logging.getLogger("runstore.publish")
_open: Final["weakref.WeakSet[Spool]"] = weakref.WeakSet()


class SpoolFailed(RunstoreError):
    """The spool cannot keep an event: it is full, or its disk or folder takes none."""

    code = "spool_failed"


class Batch(NamedTuple):
    """Events that wait, where each lies, and the place behind them."""

    events: list[bytes]
    places: list[Range]
    end: int


class Spool:
    """One file of events that wait. Its methods block, and may be called from any thread.

    `aside` are the runs of which something was refused, and which must therefore wait for the next turn with whatever
    else there is of them, or it would be out of order. Used by whoever reads.

    Units: `most_bytes` bounds what waits; the file may be half as large again.
    """

    def __init__(self, folder: Path, label: str, most_bytes: int) -> None:
        self.folder = folder
        self.aside: set[RunId] = set()
        self._label = label
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._fd = -1
        self._end = 0
        self._unread: list[Range] = []
        self._refused: list[Range] = []
        _open.add(self)

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Take over a file that its process left; None where that still lives or the file is none of ours.

        Raises: OSError, also where the file is another user's: who may write there must not speak for us.
        """
        fd = locked(path, os.O_RDWR)
        if fd is None:
            return None
        spool = None
        try:
            spool = cls._adopted(path, fd)
        finally:
            if spool is None:
                os.close(fd)
        return spool

    @classmethod
    def _adopted(cls, path: Path, fd: int) -> Self | None:
        head, status = head_of(fd), os.fstat(fd)
        if head is None:
            return None
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user, who alone may send it")
        spool = cls(path.parent, head.label, status.st_size)
        spool._end = whole_until(fd, head, path)
        os.ftruncate(fd, spool._end)
        spool._path, spool._fd = path, fd
        if spool._end > head.delivered:
            spool._unread.append((head.delivered, spool._end))
        return spool

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._unread or self._refused)

    def append(self, events: Sequence[bytes]) -> None:
        """Keep events, in order; when this returns they survive a crash.

        Raises: SpoolFailed, and then none of them is kept.
        """
        data = b"".join(map(encode_record, events))
        with self._lock:
            if self.waiting_bytes + len(data) > self._most_bytes:
                waits = f"{self.waiting_bytes} of {self._most_bytes} bytes"
                raise SpoolFailed(f"the spool in {self.folder} is full: {waits}")
            try:
                if self._fd < 0:
                    self._create()
                write(self._fd, data, self._end)
                os.fsync(self._fd)
            except OSError as error:
                if self._fd >= 0:
                    with suppress(OSError):
                        os.ftruncate(self._fd, self._end)
                raise SpoolFailed(f"the spool in {self.folder} cannot be written: {error.strerror}") from error
            _join(self._unread, (self._end, self._end + len(data)))
            self._end += len(data)

    def read(self, most_events: int, most_bytes: int) -> Batch:
        """Read the first events whose turn it is, one at least where any wait. Raises: OSError."""
        with self._lock:
            batch = Batch([], [], self._end)
            if self.is_empty:
                return batch
            size = 0
            with mmap(self._fd, self._end, access=ACCESS_READ) as data:
                for span in _spans(data, self._unread):
                    size += len(span.event)
                    if batch.events and (len(batch.events) >= most_events or size > most_bytes):
                        return batch._replace(end=batch.places[-1][1])
                    batch.events.append(span.event)
                    batch.places.append((span.end - record_bytes(span.event), span.end))
            return batch

    def advance(self, batch: Batch, refused: Mapping[int, RunId] = MappingProxyType({})) -> None:
        """Take note that what `read` returned was delivered, but for the refused, each by its number and run.

        Needs: nobody else that reads.
        """
        with self._lock:
            self._unread = [(max(begin, batch.end), end) for begin, end in self._unread if end > batch.end]
            for number, run_id in refused.items():
                _join(self._refused, batch.places[number])
                self.aside.add(run_id)
            most_delivered = self._most_bytes // 2
            if not self._unread:
                self._unread, self._refused = self._refused, []
                self.aside.clear()
                most_delivered = self.waiting_bytes
            try:
                if self.is_empty:
                    self._remove()
                elif self._end - self.waiting_bytes > most_delivered:
                    self._compact()
                else:
                    self._mark(self._ranges[0][0])
            except OSError as error:
                _LOG.error("spool_not_cleared", extra={"path": str(self._path), "reason": error.strerror})

    def close(self) -> None:
        """Let go of the file, which stays where events wait in it; may be called twice."""
        with self._lock:
            with suppress(OSError):
                if self._fd >= 0 and self.is_empty:
                    self._remove()
                elif len(self._ranges) > 1:  # or whoever is next would send again what was delivered between them
                    self._compact()
            self._let_go()

    def disown(self) -> None:
        """Let go, in a forked child, of what is its parent's."""
        self._lock = threading.Lock()
        self._let_go()

    def __del__(self) -> None:
        self._let_go()

    @property
    def _ranges(self) -> list[Range]:
        """Where all that waits lies, in the order in which it came."""
        return [*self._refused, *self._unread]

    @property
    def waiting_bytes(self) -> int:
        """How much waits."""
        return sum(end - begin for begin, end in self._ranges)

    def _create(self) -> None:
        make_folder(self.folder)
        path = self.folder / f"{os.getpid()}-{token_hex(6)}{SUFFIX}"
        head = encode_head(self._label)
        fd = put_new(path, head)
        try:
            fsync_folder(self.folder)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._path, self._fd, self._end = path, fd, len(head)

    def _compact(self) -> None:
        """Leave out what was delivered, by a new file in the place of the old one."""
        assert self._path is not None
        head = encode_head(self._label)
        fd = put_new(self._path, head, self._fd, self._ranges)
        os.close(self._fd)
        self._fd, self._end = fd, len(head)
        self._refused, self._unread = self._moved(self._refused), self._moved(self._unread)
        fsync_folder(self.folder)

    def _moved(self, ranges: list[Range]) -> list[Range]:
        moved: list[Range] = []
        for begin, end in ranges:
            _join(moved, (self._end, self._end + end - begin))
            self._end += end - begin
        return moved

    def _mark(self, place: int) -> None:
        """Write how far events were delivered; not fsynced: what is lost of it is delivered again."""
        os.pwrite(self._fd, encode_delivered(place), DELIVERED_AT)

    def _remove(self) -> None:
        assert self._path is not None
        self._mark(self._end)  # should its folder keep the file
        self._path.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._path, self._end = -1, None, 0
        self._unread, self._refused = [], []
        self.aside.clear()


def _join(ranges: list[Range], more: Range) -> None:
    if ranges and ranges[-1][1] == more[0]:
        more = ranges.pop()[0], more[1]
    ranges.append(more)


def _spans(data: mmap, ranges: Sequence[Range]) -> Iterator[Span]:
    for begin, end in ranges:
        for span in read_records(data, begin):
            if span.end <= end:
                yield span
            if span.end >= end:
                break


def _disown_all() -> None:
    for spool in list(_open):
        spool.disown()


os.register_at_fork(after_in_child=_disown_all)
