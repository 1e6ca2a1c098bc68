"""The power of processes: preload the shim (`shim.c`), then cut files back to their last fsync, fill disks, set clocks.

Where there is no C compiler there is no shim, and what needs it is left out, loudly.
"""

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Final

_SOURCE: Final = Path(__file__).with_name("shim.c")
_SLOT: Final = struct.Struct("=QQ")
_SLOTS: Final = 4096
_CONTROL: Final = struct.Struct("=Qq")


def build_shim(folder: Path) -> Path | None:
    """Compile the shim into a folder; None where this machine has no compiler.

    Raises: ValueError for a folder that LD_PRELOAD cannot name: power cuts would take what was forced to disk.
    """
    if set(": ") & set(str(folder)):
        raise ValueError(f"{folder}: a preloaded library's path must have no colon and no space: choose another folder")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        print("!!! no C compiler: power cuts, full disks and clock steps are NOT injected", flush=True)
        return None
    path = folder / "shim.so"
    words = ["-std=gnu11", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(path), str(_SOURCE), "-ldl", "-pthread"]
    subprocess.run([compiler, *words], check=True)
    return path


class Power:
    """One machine's disk and clock: those of every process that is started with `env`."""

    def __init__(self, shim: Path | None, folder: Path, *disks: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._shim = shim
        self._disks = disks
        self._table = folder / "table"
        self._control = folder / "control"
        self._table.write_bytes(bytes(_SLOT.size * _SLOTS))
        self._control.write_bytes(bytes(_CONTROL.size))

    @property
    def env(self) -> dict[str, str]:
        """What a process of this machine finds in its environment."""
        if self._shim is None:
            return {}
        places = {"CHAOS_TABLE": str(self._table), "CHAOS_CONTROL": str(self._control)}
        return {"LD_PRELOAD": str(self._shim), "CHAOS_FULL": str(self._disks[0]), **places}

    def at_risk(self) -> int:
        """Return how many bytes a cut would take now."""
        return sum(now - kept for _, _, now, kept in self._files())

    def cut(self) -> int:
        """Cut every file on the disks back to its size at its last fsync; return how many bytes that took.

        Needs: no process of this machine that still lives.
        """
        files = list(self._files())
        for path, _, now, kept in files:
            if kept < now:
                os.truncate(path, kept)
        self._begin_anew([(inode, kept) for _, inode, _, kept in files])
        return sum(now - kept for _, _, now, kept in files)

    def _files(self) -> Iterator[tuple[Path, int, int, int]]:
        """Yield each file with its inode, its size, and that at its last fsync."""
        synced = {inode: size for inode, size in _SLOT.iter_unpack(self._table.read_bytes()) if inode}
        for path in (path for disk in self._disks for path in disk.rglob("*")):
            with suppress(FileNotFoundError):
                status = path.lstat()
                if S_ISREG(status.st_mode):
                    yield path, status.st_ino, status.st_size, min(status.st_size, synced.get(status.st_ino, 0))

    def fill(self, full: bool) -> None:
        """Let the first disk take no more bytes, or take them again."""
        self._set(0, "=Q", int(full))

    def step(self, seconds: float) -> None:
        """Set the wall clock ahead of (or behind) the true one."""
        self._set(8, "=q", round(seconds * 1e9))

    def _begin_anew(self, kept: list[tuple[int, int]]) -> None:
        table = bytearray(_SLOT.size * _SLOTS)
        for inode, size in kept:
            at = inode % _SLOTS
            while _SLOT.unpack_from(table, at * _SLOT.size)[0]:
                at = (at + 1) % _SLOTS
            _SLOT.pack_into(table, at * _SLOT.size, inode, size)
        self._table.write_bytes(table)

    def _set(self, at: int, form: str, value: int) -> None:
        with self._control.open("r+b") as file, mmap.mmap(file.fileno(), _CONTROL.size) as page:
            struct.pack_into(form, page, at, value)
