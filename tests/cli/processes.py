"""Commands as processes of their own, and a look at what they leave behind."""

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

READY_S = 60.0
GONE_S = 15.0
PATIENT = pytest.mark.timeout(240)
"""For tests that start several interpreters, each of which takes long where many others want the processor."""


def environment(**changes: str) -> dict[str, str]:
    """What a command is given: nothing of ours that is a setting."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTORE_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "NO_COLOR": "1", **changes}


def run(*words: str, folder: Path, within_s: float = 90.0, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "runstore.cli", *words],
        cwd=folder,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


class Started:
    """A service that said in one line of JSON that it is ready."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: Path) -> None:
        self.process = process
        self._errors = errors
        line = _line(process, READY_S)
        assert line, f"it did not get ready: {self.stderr}"
        self.said: dict[str, Any] = json.loads(line)
        self.family = {process.pid, *descendants(process.pid)}

    @property
    def url(self) -> str:
        return str(self.said["url"])

    @property
    def ws_url(self) -> str:
        return str(self.said["ws_url"])

    @property
    def token(self) -> str:
        return str(self.said["token"])

    @property
    def stderr(self) -> str:
        return self._errors.read_text(errors="replace")

    def ask(self, path: str, body: Any = None, *, token: str | None = None) -> tuple[int, Any]:
        """Ask the gateway, and return the status and the answer."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token or self.token}"})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code; what still stood on stdout must be nothing."""
        self.family |= descendants(self.process.pid)
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=GONE_S)
        assert rest == b""
        return self.process.returncode


@contextmanager
def started(
    *words: str, folder: Path, group: int | None = None, module: str = "runstore.cli", **changes: str
) -> Iterator[Started]:
    """Hold a service, of another group if told, for the length of a `with`, from when it is ready."""
    errors = folder / "stderr.txt"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words, "--json"],
            cwd=folder,
            env=environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            group=group,
        )
    try:
        yield Started(process, errors)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=GONE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def is_hidden(pid: int) -> bool:
    """Whether other processes of its user may not read a process's environment. Needs: `foreign_group` where root."""
    seen = Path(f"/proc/{pid}/environ").stat()
    return (seen.st_uid, seen.st_gid) == (0, 0)


def foreign_group() -> int | None:
    """What shows root whose files those of a process are; nobody else needs it, nor may choose."""
    return 65534 if os.getuid() == 0 else None


def until(claim: Callable[[], bool], within_s: float = GONE_S) -> bool:
    """Wait for a claim to come true."""
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.02)
    return True


def descendants(pid: int) -> set[int]:
    """Every process that has this one above it."""
    children: dict[int, list[int]] = {}
    for child in _pids():
        with suppress(OSError, ValueError, IndexError):
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(child)
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        for child in children.get(ahead.pop(), []):
            if child not in found:
                found.add(child)
                ahead.append(child)
    return found


def living(pids: set[int], folder: Path) -> set[int]:
    """Which of these processes live still, and which others work in the folder or have it in their command line."""
    found = {pid for pid in pids if _lives(pid)}
    for pid in _pids():
        with suppress(OSError):
            works_in = Path(f"/proc/{pid}/cwd").readlink()
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if pid != os.getpid() and (works_in.is_relative_to(folder) or os.fsencode(folder) in words):
                found.add(pid)
    return found


def _lives(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _line(process: "subprocess.Popen[bytes]", within_s: float) -> bytes:
    assert process.stdout is not None
    deadline, line = time.monotonic() + within_s, b""
    while not line.endswith(b"\n") and time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.1)[0]:
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            line += piece
    return line
