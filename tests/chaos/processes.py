"""Processes of a chaos run: started, signalled, started again, and never outliving the run."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Ask Linux, in a child before its exec, to kill it when the one who started it is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Role:
    """One process of the site with a name, and how it is started; `env` is added to what settings it is given."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.starts = 0
        self._is_ready = False
        self._argv = (sys.executable, *argv)
        self._env = env
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process, if one lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log(self) -> Path:
        """What it wrote to stderr, in all its lives."""
        return self._folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it; it is ready some time later."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTORE_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=self._folder,
                env={**kept, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "workers"))), **self._env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call, and no lock is taken
            )
        self.starts += 1
        self._is_ready = False

    def ready(self, within_s: float = 40) -> None:
        """Return when it has written its first line. Raises: AssertionError with what it said."""
        if self._is_ready:
            return
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + within_s
        poll = select.poll()  # there may be thousands of descriptors, through the proxies
        poll.register(self._process.stdout, select.POLLIN)
        while not poll.poll(100):
            assert time.monotonic() < deadline, f"{self.name} is not ready"
        line = self._process.stdout.readline()
        assert line, f"{self.name} did not start: {self.log.read_text(errors='replace')[-3000:]}"
        self._is_ready = True

    def signal(self, number: int) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and return when it has gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._reap(None)

    def stop(self, within_s: float = 30) -> int:
        """Ask it to end, and return its exit code; it is killed where it takes longer."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        return self._reap(within_s)

    def wait(self, within_s: float) -> int:
        """Wait for its end, and return its exit code; it is killed where it takes longer."""
        return self._reap(within_s)

    def _reap(self, within_s: float | None) -> int:
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return -signal.SIGKILL
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
