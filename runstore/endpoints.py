"""What runs on a data folder now: `dev` writes it down, so that other commands on this machine find it.

Whoever holds the flock on `dev.lock` owns the folder. The kernel lets go of it however its owner ends, so a file that
was left behind by a kill is known for that.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

DATA_DIR: Final = Path(".runstore")
_FILE: Final = "dev.json"
_LOCK: Final = "dev.lock"


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is."""

    url: str
    ws_url: str
    token: str
    redis_url: str


class Claim:
    """A data folder that is ours; given back by `release` or by the end of the process."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._lock = lock

    def publish(self, endpoints: Endpoints) -> None:
        """Write down where everything is, for this user's eyes only. Raises: OSError."""
        fresh = self._folder / f"{_FILE}.new"
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(endpoints) + b"\n")
        fresh.replace(self._folder / _FILE)

    def release(self) -> None:
        """Forget what was written and let the folder go; may be called twice."""
        if self._lock >= 0:
            (self._folder / _FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1


def claim(folder: Path) -> Claim | int:
    """Claim a folder; the process id of its owner where it is taken (0: not known). Raises: OSError."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        kept = os.pread(lock, 32, 0).strip()
        os.close(lock)
        return int(kept) if kept.isdigit() else 0
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    (folder / _FILE).unlink(missing_ok=True)
    return Claim(folder, lock)


def find(folder: Path) -> Endpoints | None:
    """Return where everything is that runs on a folder now; None where nothing does."""
    try:
        content = (folder / _FILE).read_bytes()
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(content)
    except OSError:
        return None
    finally:
        os.close(lock)
    return None


def _read(content: bytes) -> Endpoints | None:
    try:
        return msgspec.json.decode(content, type=Endpoints)
    except msgspec.MsgspecError:
        return None
