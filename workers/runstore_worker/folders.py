"""Work folders: one a worker, held by a lock that dies with it, with one folder a run; what others left is removed."""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import stat
from pathlib import Path
from secrets import token_hex
from typing import Any

from runstore_worker.lock import file_lock

LOCK = "lock"
OWN = re.compile(r"[0-9a-f]{16}")
TIMEOUT_S = 30.0


class WorkFolders:
    """A worker's place for the files of its runs. Workers may share `parent`."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._own = parent / token_hex(8)
        self._lock = -1

    async def open(self) -> None:
        """Make the folder, and remove what workers left that were killed. Raises: OSError, TimeoutError."""
        self._parent.mkdir(parents=True, exist_ok=True)
        async with file_lock(self._parent / LOCK, TIMEOUT_S):  # or a folder not yet locked would look abandoned
            self._own.mkdir(mode=0o700)
            self._lock = _take(self._own, os.O_CREAT | os.O_EXCL)
        await self.clear_abandoned()

    async def clear_abandoned(self) -> None:
        """Remove what workers left that were killed. Raises: OSError, TimeoutError."""
        async with file_lock(self._parent / LOCK, TIMEOUT_S):
            abandoned = self._take_abandoned()
        await asyncio.to_thread(_clear, abandoned)

    async def make(self, name: str) -> Path:
        """Make a fresh folder. Raises: OSError."""
        folder = self._own / f"{name}-{token_hex(4)}"
        folder.mkdir(mode=0o700)
        return folder

    async def remove(self, folder: Path) -> None:
        """Remove a folder and whatever a model made of it."""
        await asyncio.to_thread(_remove, folder)

    async def close(self) -> None:
        """Remove everything; may be called twice."""
        if self._lock >= 0:
            await self.remove(self._own)
            os.close(self._lock)
            self._lock = -1
            with contextlib.suppress(OSError, TimeoutError):  # a process just being started outlives its worker shortly
                await self.clear_abandoned()

    def _take_abandoned(self) -> list[tuple[Path, int]]:
        abandoned = []
        for folder in filter(_is_a_workers, self._parent.iterdir()):
            with contextlib.suppress(OSError):  # its worker lives, or it is no worker's: that has a lock
                abandoned.append((folder, _take(folder)))
        return abandoned


def _clear(abandoned: list[tuple[Path, int]]) -> None:
    for folder, lock in abandoned:
        _remove(folder)
        os.close(lock)


def _is_a_workers(folder: Path) -> bool:
    return OWN.fullmatch(folder.name) is not None and folder.is_dir() and not folder.is_symlink()


def _take(folder: Path, flags: int = 0) -> int:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove(folder: Path) -> None:
    def unlock(_remove: Any, path: str, _error: Any) -> None:
        """A model may have taken its folders' write permission away."""
        parent = Path(path).parent
        try:
            for place in (parent, Path(path)):
                if stat.S_ISDIR(os.lstat(place).st_mode) and place.is_relative_to(folder):
                    place.chmod(0o700)
        except OSError:
            return

    shutil.rmtree(folder, onerror=unlock)
    shutil.rmtree(folder, ignore_errors=True)
