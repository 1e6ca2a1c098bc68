"""The spool: a publisher's events on its own disk while the store is away, one file a process.

An event is safe when `append` returns: written with a checksum, and fsynced. The file exists only while something waits
in it, and its lock dies with the process, so that another may adopt what was left. When a process dies on any line of
this file, what was appended is still there, and at most what had been delivered is delivered again, which does no harm.
"""

import asyncio
import fcntl
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple, ParamSpec, Self, TypeVar

from runstore.core.errors import RunstoreError
from runstore.wire.spool import (
    DELIVERED_AT,
    Head,
    decode_head,
    encode_delivered,
    encode_head,
    encode_record,
    read_records,
)

SUFFIX: Final = ".spool"
_LOG: Final = logging.getLogger("runstore.publish")
_P = ParamSpec("_P")
_T = TypeVar("_T")
_open: Final["weakref.WeakSet[Spool]"] = weakref.WeakSet()


class SpoolFailed(RunstoreError):
    """The spool cannot keep an event: it is full, or its disk or folder takes none."""

    code = "spool_failed"


class Batch(NamedTuple):
    """Events that wait, and the place behind them."""

    events: list[bytes]
    end: int


class Spool:
    """One file of events that wait. Its methods block, and may be called from any thread.

    Units: `most_bytes` bounds what waits; the file may be half as large again.
    """

    def __init__(self, folder: Path, label: str, most_bytes: int) -> None:
        self.folder = folder
        self._label = label
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._fd = -1
        self._begin = 0
        self._end = 0
        _open.add(self)

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Take over a file that its process left; None where that still lives or the file is none of ours.

        Raises: OSError.
        """
        fd = locked(path, os.O_RDWR)
        if fd is None:
            return None
        head = head_of(fd)
        if head is None:
            os.close(fd)
            return None
        spool = cls(path.parent, head.label, os.fstat(fd).st_size)
        spool._path, spool._fd = path, fd
        spool._begin = head.delivered
        spool._end = _whole_until(fd, head, path)
        os.ftruncate(fd, spool._end)
        return spool

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self._begin >= self._end

    def append(self, events: Sequence[bytes]) -> None:
        """Keep events, in order; when this returns they survive a crash.

        Raises: SpoolFailed, and then none of them is kept.
        """
        data = b"".join(map(encode_record, events))
        with self._lock:
            try:
                if self._fd < 0:
                    self._create()
                waits = self._end - self._begin
                if waits + len(data) > self._most_bytes:
                    raise SpoolFailed(f"the spool {self._path} is full: {waits} of {self._most_bytes} bytes")
                _write(self._fd, data, self._end)
                os.fsync(self._fd)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._fd, self._end)
                raise SpoolFailed(f"the spool in {self.folder} cannot be written: {error.strerror}") from error
            self._end += len(data)

    def read(self, most_events: int, most_bytes: int) -> Batch:
        """Read the first events that wait, one at least where any do. Raises: OSError."""
        with self._lock:
            found: list[bytes] = []
            end, size = self._begin, 0
            if self.is_empty:
                return Batch(found, end)
            with mmap(self._fd, self._end, access=ACCESS_READ) as data:
                for span in read_records(data, self._begin):
                    size += len(span.event)
                    if found and (len(found) >= most_events or size > most_bytes):
                        break
                    found.append(span.event)
                    end = span.end
            return Batch(found, end if found else self._end)

    def advance(self, batch: Batch) -> None:
        """Take note that what `read` returned was delivered. Needs: nobody else that reads."""
        with self._lock:
            self._begin = batch.end
            try:
                if self.is_empty:
                    self._remove()
                elif self._begin > self._most_bytes // 2:
                    self._compact()
                else:  # not fsynced: what is lost of it is delivered again
                    os.pwrite(self._fd, encode_delivered(self._begin), DELIVERED_AT)
            except OSError as error:
                _LOG.error("spool_not_cleared", extra={"path": str(self._path), "reason": error.strerror})

    def close(self) -> None:
        """Let go of the file, which stays where events wait in it; may be called twice."""
        with self._lock:
            if self._fd >= 0 and self.is_empty:
                self._remove()
            self._let_go()

    def disown(self) -> None:
        """Let go, in a forked child, of what is its parent's."""
        self._lock = threading.Lock()
        self._let_go()

    def _create(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{os.getpid()}-{token_hex(6)}{SUFFIX}"
        fd = locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        assert fd is not None
        self._path, self._fd = path, fd
        head = encode_head(self._label)
        self._begin = self._end = len(head)
        _write(fd, head, 0)
        _fsync_folder(self.folder)

    def _compact(self) -> None:
        """Leave out what was delivered, by a new file in the place of the old one."""
        assert self._path is not None
        fresh = self._path.with_suffix(".new")
        fd = locked(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        assert fd is not None
        head = encode_head(self._label)
        rest = os.pread(self._fd, self._end - self._begin, self._begin)
        _write(fd, head + rest, 0)
        os.fsync(fd)
        fresh.rename(self._path)
        _fsync_folder(self.folder)
        os.close(self._fd)
        self._fd, self._begin, self._end = fd, len(head), len(head) + len(rest)

    def _remove(self) -> None:
        assert self._path is not None
        self._path.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._path, self._begin, self._end = -1, None, 0, 0


async def off_loop(act: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do something that blocks in a thread or, where the interpreter is ending and starts none, here."""
    try:
        return await asyncio.to_thread(act, *args, **kwargs)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        return act(*args, **kwargs)


def _disown_all() -> None:
    for spool in list(_open):
        spool.disown()


os.register_at_fork(after_in_child=_disown_all)


def locked(path: Path, flags: int) -> int | None:
    """Open a file and lock it; None where another has it, or where it is gone meanwhile. Raises: OSError."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def head_of(fd: int) -> Head | None:
    """Read the head of a file; None where it is none of ours."""
    if os.fstat(fd).st_size == 0:
        return None
    with mmap(fd, 0, access=ACCESS_READ) as data:
        return decode_head(data)


def _whole_until(fd: int, head: Head, path: Path) -> int:
    """Find the end of the last whole record, and be loud about what is damaged."""
    end, skipped = head.delivered, 0
    with mmap(fd, 0, access=ACCESS_READ) as data:
        for span in read_records(data, head.delivered):
            end, skipped = span.end, skipped + span.skipped
        torn = len(data) - end
    if skipped or torn:
        _LOG.error("spool_damaged", extra={"path": str(path), "skipped_bytes": skipped, "torn_bytes": torn})
    return end


def _write(fd: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, place)
        view, place = view[written:], place + written


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
