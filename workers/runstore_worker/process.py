"""Run one command to its end, whatever that end is, and return when nothing of it is left.

The end is a value. Output goes two ways as it comes: to a callback, whose slowness holds the command back (nothing is
dropped, nothing piles up), and to a file each that keeps the last bytes.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

import msgspec

from runstore_worker.complete import complete
from runstore_worker.held import CHUNK_BYTES, Command, Held, Refused, Report
from runstore_worker.tail import Tail

LATE_S = 5.0  # what a shim may take beyond the grace before it is not asked any more
DRAIN_S = 10.0  # what a callback may take, after the end, for the output that was already written

Stream = Literal["stdout", "stderr"]
OnChunk = Callable[[Stream, bytes], Awaitable[None]]


class Exited(msgspec.Struct, frozen=True, tag=True):
    """It ended by itself."""

    code: int


class Signalled(msgspec.Struct, frozen=True, tag=True):
    """A signal ended it that was not ours; SIGKILL too where a model killed what held it."""

    signal: int


class TimedOut(msgspec.Struct, frozen=True, tag=True):
    """It was still running past its time, and was ended."""


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """It was ended as asked."""


class NotStarted(msgspec.Struct, frozen=True, tag=True):
    """It never ran."""

    reason: str
    """A sentence for the run's `error_message`."""


Outcome = Exited | Signalled | TimedOut | Cancelled | NotStarted
End = Report | Refused | TimedOut | Cancelled | None
"""As the shim tells it (None: it told nothing), or as it was brought about."""


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ends of both streams are kept."""

    stdout: Tail
    stderr: Tail


async def execute(command: Command, *, logs: Logs, on_chunk: OnChunk, cancel: asyncio.Event) -> Outcome:
    """Run a command; every descendant is gone when this returns, raises or is itself cancelled.

    Setting `cancel` terminates the command with its grace; cancelling the task kills it at once.

    Units: a chunk is 1 byte to 64 KiB.
    Raises: an ExceptionGroup of what `on_chunk` or the disk raised.
    """
    if cancel.is_set():
        return Cancelled()
    try:
        held = Held(command)
    except (OSError, ValueError) as error:
        return NotStarted(reason=refusal(command, error))
    try:
        await held.connect()
        async with asyncio.TaskGroup() as group:
            pumps = [
                group.create_task(_pump(held.stdout, logs.stdout, "stdout", on_chunk)),
                group.create_task(_pump(held.stderr, logs.stderr, "stderr", on_chunk)),
            ]
            outcome = outcome_of(command, await end_of(held, command, cancel))
            await complete(held.clear())
            await asyncio.wait(pumps, timeout=DRAIN_S)
            for pump in pumps:  # a pipe may have been handed to a stranger, and would never end
                pump.cancel()
        return outcome
    finally:
        try:
            await complete(held.clear())
        finally:
            held.close()


async def end_of(held: Held, command: Command, cancel: asyncio.Event) -> End:
    """Wait for a command's end, and make it end when it is past its time or asked to; some of it may be left."""
    ended = asyncio.ensure_future(held.ended())
    asked = asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait({ended, asked}, timeout=command.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        held.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(command.grace_s + LATE_S):
                report = await asyncio.shield(ended)
                if isinstance(report, Report) and not report.told:  # it ended in the moment before
                    return report
                await held.gone()  # the grace is for all of the group, not for its leader alone
        return Cancelled() if asked.done() else TimedOut()
    finally:
        ended.cancel()
        asked.cancel()


def outcome_of(command: Command, end: End) -> Outcome:
    """Say how a command ended."""
    match end:
        case None:
            return Signalled(signal=signal.SIGKILL)
        case Refused():
            return NotStarted(reason=refusal(command, OSError(end.errno, os.strerror(end.errno))))
        case Report(returncode=code):
            return Exited(code=code) if code >= 0 else Signalled(signal=-code)
        case _:
            return end


def refusal(command: Command, error: OSError | ValueError) -> str:
    """Say why a command could not be started."""
    said = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot start {' '.join(command.argv)[:200]!r}: {said}"


async def _pump(reader: asyncio.StreamReader, tail: Tail, stream: Stream, on_chunk: OnChunk) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        tail.write(chunk)
        await on_chunk(stream, chunk)
