"""Run a command for somebody at a shell, in cron or in a CI job, who should hardly notice.

It reads our stdin, and what it writes is passed on (`relay`). It is in a session of its own, held by the shim, so that
each signal that is meant for it comes once, by way of us, to the whole of its group; and a terminal's Ctrl-C, which
reaches us alone, does too. What it leaves running when it ends by itself is left running; when it is past its time, or
when we are killed, all of it is ended.

Ctrl-Z stops the command and then ourselves, so that the shell has its job stopped, and both go on together.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from errno import ENOENT

import msgspec

from runstore_worker.complete import complete
from runstore_worker.held import Command, Held, Refused, Report, Stdio
from runstore_worker.process import Cancelled, End, Logs, NotStarted, Outcome, TimedOut, end_of, outcome_of, refusal
from runstore_worker.relay import Stream, relays

ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
PASSED_ON = (*ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)

NOT_FOUND, NOT_EXECUTABLE, TOO_LATE, SIGNALLED = 127, 126, 124, 128
"""Exit codes as shells, env and timeout have them."""


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """How it went."""

    outcome: Outcome
    code: int
    """The exit code to end with."""
    asked: signal.Signals | None
    """The first of the signals that ask for an end, if one came before it."""


class Wrapper:
    """One command, once. `on_stop` is awaited before all is stopped by Ctrl-Z, `on_continue` called when it goes on.

    Setting `cancel` ends it with all its processes, after a grace.
    """

    def __init__(
        self,
        command: Command,
        logs: Logs,
        *,
        cancel: asyncio.Event,
        on_stop: Callable[[], Awaitable[None]],
        on_continue: Callable[[], object],
    ) -> None:
        self._command = command
        self._cancel = cancel
        self._streams = (Stream(1, logs.stdout), Stream(2, logs.stderr))
        self._on_stop = on_stop
        self._on_continue = on_continue
        self._held: Held | None = None
        self._asked: signal.Signals | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> Wrapped:
        """Run it to its end."""
        self._listen()
        out, err = self._streams
        stdio = Stdio(stdin=_stdin(), outputs=(out.theirs, err.theirs), others=True, spare=True)
        try:
            self._held = held = Held(self._command, stdio)
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            return Wrapped(outcome=NotStarted(reason=refusal(self._command, error)), code=code, asked=None)
        finally:
            for stream in self._streams:
                os.close(stream.theirs)
        passing = relays(*self._streams)
        try:
            await held.connect()
            end, asked = await end_of(held, self._command, self._cancel), self._asked
        finally:
            await complete(held.clear())
            held.close()
            await asyncio.gather(*(asyncio.to_thread(relay.finish) for relay in passing))
        return Wrapped(outcome=outcome_of(self._command, end), code=code_of(end), asked=asked)

    def _listen(self) -> None:
        """Hear signals, but those that whoever started us wants ignored (nohup, a shell's background)."""
        loop = asyncio.get_running_loop()
        for number in (*PASSED_ON, signal.SIGTSTP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._hear, signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        if number is signal.SIGTSTP:
            if self._held is not None and self._stopping is None:
                self._stopping = asyncio.get_running_loop().create_task(self._stop())
            return
        if number is signal.SIGWINCH:
            for stream in self._streams:
                stream.resize()
        if number in ENDING and self._asked is None:
            self._asked = number
        if self._held is not None:
            self._held.pass_on(number)

    async def _stop(self) -> None:
        assert self._held is not None
        loop = asyncio.get_running_loop()
        self._held.pass_on(signal.SIGTSTP)
        await self._on_stop()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)  # it returns when we are continued, or at once where nobody could do that
        loop.add_signal_handler(signal.SIGTSTP, self._hear, signal.SIGTSTP)
        self._stopping = None
        self._held.pass_on(signal.SIGCONT)
        self._on_continue()


def code_of(end: End) -> int:
    """Return the exit code that a shell would give for an end."""
    match end:
        case Report(returncode=code):
            return code if code >= 0 else SIGNALLED - code
        case Refused(errno=number):
            return NOT_FOUND if number == ENOENT else NOT_EXECUTABLE
        case TimedOut():
            return TOO_LATE
        case Cancelled():
            return SIGNALLED + signal.SIGTERM
        case _:
            return SIGNALLED + signal.SIGKILL


def _stdin() -> int:
    """Return our stdin, or none where it is closed, or a terminal that is another job's."""
    try:
        if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
            return subprocess.DEVNULL  # in a session of its own it would not be stopped for reading there
        os.fstat(0)
    except OSError:
        return subprocess.DEVNULL
    return 0
