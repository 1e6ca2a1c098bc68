"""The processes under attack as the system sees them: whether they live, what they hold, what they logged."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.cli.processes import descendants

TROUBLE = re.compile(r"Traceback \(most recent call last\)| ERROR | CRITICAL |never awaited|was never retrieved")
"""What no line of a log may have: a gateway that is attacked has nothing to be sorry for."""


@dataclass(frozen=True)
class Reading:
    """What a process holds. `fds` is None where the system does not tell."""

    rss_bytes: int
    fds: int | None
    children: int


class Watched:
    """One process, from when it was ready."""

    def __init__(self, name: str, pid: int, log: Path | None = None) -> None:
        self.name = name
        self.pid = pid
        self._log = log
        self._read_upto = 0
        self._born = _started_at(pid)

    @property
    def lives(self) -> bool:
        """Whether it is still the same process."""
        try:
            return _started_at(self.pid) == self._born
        except OSError:
            return False

    def read(self) -> Reading | None:
        """Read what it holds now; None where it has ended."""
        try:
            return self._read() if self.lives else None
        except OSError:
            return None

    def _read(self) -> Reading:
        try:
            fds = len(os.listdir(f"/proc/{self.pid}/fd"))
        except PermissionError:
            fds = None
        return Reading(_status(self.pid, "VmRSS"), fds, len(descendants(self.pid)))

    def peak_bytes(self) -> int:
        """Return the most memory that it had since `forget_peak`."""
        return _status(self.pid, "VmHWM")

    def forget_peak(self) -> bool:
        """Let the peak begin anew; false where the system does not let us."""
        try:
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def new_trouble(self) -> str | None:
        """Return the first trouble that its log tells of since it was last asked."""
        if self._log is None:
            return None
        with self._log.open("rb") as file:
            file.seek(self._read_upto)
            text = file.read().decode(errors="replace")
            self._read_upto = file.tell()
        found = TROUBLE.search(text)
        return None if found is None else text[max(0, found.start() - 200) : found.start() + 1500]

    def logged(self) -> bytes:
        """Return all of its log."""
        return self._log.read_bytes() if self._log is not None else b""


def _status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found[1]) * 1024


def _started_at(pid: int) -> str:
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state == "Z":
        raise ProcessLookupError(f"process {pid} has ended")
    return rest[18]
