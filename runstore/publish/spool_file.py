"""The file of a spool on the disk: opened and locked, begun with its head, looked through for what is whole.

A lock dies with its process. A file is written under another name and renamed, so that under its own name it is never
without its head.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

from runstore.wire.spool import Head, decode_head, read_records

SUFFIX: Final = ".spool"
_UNFINISHED: Final = ".new"
_TRIES: Final = 5
Range = tuple[int, int]
"""A stretch of a file, from one place to another."""
_COPY_BYTES: Final = 1024 * 1024
_LOG: Final = logging.getLogger("runstore.publish")


def locked(path: Path, flags: int) -> int | None:
    """Open a file and lock it; None where another has it, or where it is gone meanwhile. Raises: OSError."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
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


def put_new(path: Path, head: bytes, source: int = -1, ranges: Sequence[Range] = ()) -> int:
    """Put a new, locked file under a path and return it open: a head, and what lies in ranges of another file.

    Raises: OSError, and then nothing has changed.
    """
    fresh = path.with_suffix(_UNFINISHED)
    for _ in range(_TRIES):
        fresh.unlink(missing_ok=True)  # of an earlier try; nobody else has this name
        fd = locked(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if fd is not None:  # else somebody swept it up in the moment before it was locked
            break
    else:
        raise OSError(errno.EBUSY, "somebody takes each new file away")
    try:
        write(fd, head, 0)
        place = len(head)
        for begin, end in ranges:
            _copy(source, begin, end, fd, place)
            place += end - begin
        if ranges:
            os.fsync(fd)
        fresh.rename(path)
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            fresh.unlink()
        raise
    return fd


def sweep(folder: Path) -> None:
    """Remove the files that were never finished, since their processes died. Raises: OSError."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        fd = locked(path, os.O_RDWR)
        if fd is not None:
            path.unlink(missing_ok=True)
            os.close(fd)


def head_of(fd: int) -> Head | None:
    """Read the head of a file; None where it is none of ours."""
    if os.fstat(fd).st_size == 0:
        return None
    with mmap(fd, 0, access=ACCESS_READ) as data:
        return decode_head(data)


def whole_until(fd: int, head: Head, path: Path) -> int:
    """Find the end of the last whole record, and be loud about what is damaged."""
    end, skipped = head.delivered, 0
    with mmap(fd, 0, access=ACCESS_READ) as data:
        for span in read_records(data, head.delivered):
            end, skipped = span.end, skipped + span.skipped
        torn = len(data) - end
    if skipped or torn:
        _LOG.error("spool_damaged", extra={"path": str(path), "skipped_bytes": skipped, "torn_bytes": torn})
    return end


def write(fd: int, data: bytes, place: int) -> None:
    """Write all of it at a place. Raises: OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, place)
        view, place = view[written:], place + written


def make_folder(folder: Path) -> None:
    """Make a folder that only we may enter, with those above it; a power cut takes none of them. Raises: OSError."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in made:
        fsync_folder(each.parent)


def fsync_folder(folder: Path) -> None:
    """Make what was made, renamed or removed in a folder outlast a power cut. Raises: OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy(source: int, begin: int, end: int, fd: int, place: int) -> None:
    while begin < end:
        piece = os.pread(source, min(_COPY_BYTES, end - begin), begin)
        if not piece:
            raise OSError(errno.EIO, "the spool is shorter than it was")
        write(fd, piece, place)
        begin, place = begin + len(piece), place + len(piece)
