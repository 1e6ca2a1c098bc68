"""The data folder: what lies in it, and who owns it.

The rule: one owner per folder. The owner is whoever holds the flock on `lock`, and the server inherits that
descriptor, so a folder is free again only when the server itself has gone, however its owner ended. The pid in the
file serves the error message and nothing else, except to tell an owner worth waiting for (dead) from one that is not.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runstore.engine.errors import DataFolderInUse, DataFolderUnusable

_LOG = "engine.log"
_LOCK = "lock"
_AUTH_FILE = "redis-password"
_SOUND_PASSWORD = re.compile(r"[A-Za-z0-9_-]{20,}")
_TAIL_BYTES = 2048
_POLL_S = 0.01


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Name the folder in whatever the system objects to.

    Raises: DataFolderUnusable.
    """
    try:
        yield
    except OSError as error:
        raise DataFolderUnusable(folder, _reason(error)) from error


def make(folder: Path) -> None:
    """Make the folder, private and invisible to git, where it is missing.

    Raises: DataFolderUnusable.
    """
    with usable(folder):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n")


def acquire(folder: Path, *, patience_s: float) -> int:
    """Become the owner and return the descriptor that holds the lock.

    Raises: DataFolderInUse; DataFolderUnusable.
    """
    with usable(folder):
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _wait_for_lock(lock, folder, time.monotonic() + patience_s)
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(lock)
            raise
        return lock


def password(folder: Path) -> str:
    """Return the folder's password, made on first use.

    Needs: the lock.
    Raises: DataFolderUnusable.
    """
    path = folder / _AUTH_FILE
    with usable(folder):
        with suppress(FileNotFoundError, UnicodeDecodeError):
            kept = path.read_text("ascii").strip()
            if _SOUND_PASSWORD.fullmatch(kept):
                path.chmod(0o600)
                return kept
        made = secrets.token_urlsafe(32)
        write_private(path, made.encode() + b"\n")
        return made


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step by one that only its owner reads.

    Raises: OSError.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def open_log(folder: Path) -> int:
    """Begin a log, keep the one before it as `engine.log.1`, and return a descriptor that appends.

    Raises: DataFolderUnusable.
    """
    path = folder / _LOG
    with usable(folder):
        with suppress(FileNotFoundError):
            path.replace(folder / f"{_LOG}.1")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def log_tail(folder: Path) -> str:
    """Return the last lines of the log."""
    with suppress(OSError), open(folder / _LOG, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-12:]).strip()
    return ""


def _wait_for_lock(lock: int, folder: Path, deadline: float) -> None:
    while not _locked(lock):
        owner = _owner(lock)
        if (owner is not None and _alive(owner)) or time.monotonic() > deadline:
            raise DataFolderInUse(folder, owner)
        time.sleep(_POLL_S)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> int | None:
    kept = os.pread(lock, 32, 0).strip()
    return int(kept) if kept.isdigit() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _reason(error: OSError) -> str:
    match error:
        case FileExistsError():
            return "it is a file, not a folder"
        case NotADirectoryError():
            return "a part of its path is a file, not a folder"
        case _:
            return error.strerror or str(error)
