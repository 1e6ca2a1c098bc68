"""The worker's end of a shim: starting it, asking it to terminate, and seeing it gone."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from runstore_worker import shim, sweep

CHUNK_BYTES = 64 * 1024
STUCK_S = shim.GIVE_UP_S + 5  # past this a shim is not busy but frozen, and is killed with the rest

log = logging.getLogger(__name__)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, where, and for how long."""

    run_id: str
    """Whose run it is; part of the mark by which its processes are found again."""
    argv: tuple[str, ...]
    """The program (looked for on the `PATH` of `env`) and its arguments; at least one."""
    cwd: Path
    """The folder to start in."""
    env: dict[str, str]
    """The whole environment; nothing is added but the mark."""
    timeout_s: float
    """How long it may run before it is terminated. Unit: seconds."""
    grace_s: float = 10.0
    """How long it may take to end after SIGTERM before it is killed. Unit: seconds; 0 kills at once."""


class Stdio(msgspec.Struct, frozen=True, kw_only=True):
    """What a command is given of its caller's own; it has nothing to read, and pipes to here, unless told."""

    stdin: int = subprocess.DEVNULL
    """A descriptor to read from."""
    outputs: tuple[int, int] | None = None
    """Descriptors for stdout and stderr, in the place of pipes."""
    others: bool = False
    """Whether it gets the caller's other inheritable descriptors, as from a shell."""
    spare: bool = False
    """Whether what outlives a command that ended by itself is left alone."""


class Report(msgspec.Struct, frozen=True):
    """How a command ended, as the shim tells it."""

    returncode: int
    """The exit code, or minus the signal."""
    told: bool
    """Whether it ended only after it had been told to."""


PIPES = Stdio()


class Refused(msgspec.Struct, frozen=True):
    """The system would not start the command."""

    errno: int


class Held:
    """A command in the hands of its shim, from its start until nothing of it is left."""

    def __init__(self, command: Command, stdio: Stdio = PIPES) -> None:
        """Start it. Raises: OSError, ValueError (what Popen raises)."""
        self._mark = sweep.new_mark(command.run_id)
        self._spare = stdio.spare
        self._sweeps = True
        control, self._control = os.pipe()
        pipes = [os.pipe() for _ in range(3 if stdio.outputs is None else 1)]
        theirs = [control, *(write for _, write in pipes)]
        self._files = [open(read, "rb", buffering=0) for read, _ in pipes]  # noqa: SIM115  closed in close()
        self._transports: list[asyncio.ReadTransport] = []
        self.report, self.stdout, self.stderr = (asyncio.StreamReader(limit=CHUNK_BYTES) for _ in range(3))
        try:
            self._shim = _popen(command, self._mark, [*theirs, *(stdio.outputs or ())], stdio)
        except BaseException:
            self._close_pipes()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    async def connect(self) -> None:
        """Begin to read."""
        loop = asyncio.get_running_loop()
        for file, reader in zip(self._files, (self.report, self.stdout, self.stderr), strict=False):
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(lambda p=protocol: p, file)  # type: ignore[misc]
            self._transports.append(transport)

    def terminate(self) -> None:
        """Ask for SIGTERM and the grace."""
        self._tell(shim.TERMINATE)
        self._thaw()

    def pass_on(self, number: int) -> None:
        """Send a signal to the command's group, if it is there still."""
        self._tell(bytes([number]))

    async def ended(self) -> Report | Refused | None:
        """Wait for the command's end; None if the shim died without a word, hence was killed."""
        kind, *numbers = (await self.report.readline()).split() or (b"",)
        match kind:
            case b"ended":
                self._sweeps = not self._spare or numbers[1] == b"1"
                return Report(returncode=int(numbers[0]), told=numbers[1] == b"1")
            case b"refused":
                return Refused(errno=int(numbers[0]))
            case _:
                return None

    async def gone(self) -> None:
        """Wait for the shim's own end, after which nothing of the run is left."""
        await self.report.read()

    async def clear(self) -> None:
        """Kill all that is left of the run and return when it is gone; may be called twice."""
        if self._control < 0:
            return
        os.close(self._control)
        self._control = -1
        self._thaw()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STUCK_S if self._transports else 0):
                await self.gone()
        if self._sweeps and (left := await asyncio.to_thread(sweep.sweep, self._mark, self._shim.pid)):
            log.warning("processes_left", extra={"mark": self._mark, "processes": left})
        self._shim.kill()
        await asyncio.to_thread(self._shim.wait)

    def close(self) -> None:
        """Stop reading. Needs: `clear` before it."""
        for transport in self._transports:
            transport.close()
        self._close_pipes()

    def _tell(self, byte: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._control, byte)

    def _thaw(self) -> None:
        """A model can have stopped its shim. Not by `Popen`, which would reap it, and `sweep` needs it unreaped."""
        with contextlib.suppress(OSError):
            os.kill(self._shim.pid, signal.SIGCONT)

    def _close_pipes(self) -> None:
        for file in self._files[len(self._transports) :]:  # a transport closes its own
            file.close()
        self._files = self._files[: len(self._transports)]
        if self._control >= 0:
            os.close(self._control)
            self._control = -1


def _popen(command: Command, mark: str, pipes: list[int], stdio: Stdio) -> subprocess.Popen[bytes]:
    if not command.argv:
        raise ValueError("the command is empty")
    control, report, stdout, stderr = pipes
    options = [str(control), str(report), str(round(command.grace_s * 1000)), str(int(stdio.spare))]
    for each in (control, report):
        os.set_inheritable(each, stdio.others)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(shim.__file__)), *options, *command.argv],
        cwd=command.cwd,
        env={**command.env, sweep.MARK: mark},
        stdin=stdio.stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=() if stdio.others else (control, report),
        close_fds=not stdio.others,
        start_new_session=True,
    )
