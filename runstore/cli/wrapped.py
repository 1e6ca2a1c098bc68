"""A command between the beginning and the end of a run that is published around it."""

import asyncio
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from runstore.cli.exits import Trouble
from runstore.config import StoreSettings
from runstore.core.cap import Output, cap
from runstore.core.errors import StoreUnavailable
from runstore.core.event import MAX_OUTPUT_BYTES
from runstore.core.status import Status
from runstore.publish import AsyncPublisher
from runstore.publish.track import Story, TrackOptions
from runstore.publish.tracked import Ending, TrackedRun
from runstore_worker.ending import judge
from runstore_worker.held import Command
from runstore_worker.outputs import Unreadable, read_outputs, text
from runstore_worker.process import Exited, Logs
from runstore_worker.tail import Tail
from runstore_worker.wrap import Wrapped, Wrapper

KEEP_BYTES: Final = 4 * 1024 * 1024
"""How much of the end of each stream is kept."""
ACKNOWLEDGED_S: Final = 0.5
BEGUN_S: Final = 1.0
"""How long a command that is to be stopped waits for its beginning to be told."""
_REST_BYTES: Final = 1024


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended, and what is to be said and returned."""

    status: Status
    reason: str | None
    code: int
    is_acknowledged: bool
    is_safe: bool
    """Whether the store knows how it ended, or will know."""


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """Where a command leaves its outputs, and what it writes is kept."""

    outputs: Path
    logs: Logs


async def execute(
    argv: tuple[str, ...], store: StoreSettings, options: TrackOptions, *, timeout_s: float | None
) -> Done:
    """Run a command, and publish what becomes of it. The store is waited for at the end only, for a bounded time.

    Raises: Trouble where nothing was run.
    """
    publisher = AsyncPublisher(store.redis_url, config=store.publishing())
    loop, cancel = asyncio.get_running_loop(), asyncio.Event()
    story = Story(publisher, options, on_cancel=lambda: loop.call_soon_threadsafe(cancel.set))
    with _folder() as folder:
        command = Command(
            run_id=story.run_id,
            argv=argv,
            cwd=Path(),
            env=_environment(story.run, folder.outputs),
            timeout_s=math.inf if timeout_s is None else timeout_s,
        )

        async def let_go() -> None:  # a run that is stopped cannot renew its lease, and is not lost for that
            await asyncio.wait({beginning}, timeout=BEGUN_S)  # which takes the lease as well
            await publisher.let_go(story.run_id, drop=True)

        async with publisher:
            wrapper = Wrapper(command, folder.logs, cancel=cancel, on_stop=let_go, on_continue=story.hold)
            beginning = asyncio.ensure_future(story.begin())
            wrapped = await wrapper.run()
            await asyncio.wait({beginning})
            ending = await asyncio.to_thread(_end, story.run, wrapped, folder, command.timeout_s)
            await story.finish(ending)
            is_acknowledged = story.is_end_safe and await _is_acknowledged(publisher)
    return Done(
        status=ending.status,
        reason=ending.reason,
        code=wrapped.code,
        is_acknowledged=is_acknowledged,
        is_safe=story.is_end_safe,
    )


def _environment(run: TrackedRun, outputs: Path) -> dict[str, str]:
    told = {"RUNSTORE_RUN_ID": run.run_id, "RUNSTORE_OUTPUTS": str(outputs), "TRACEPARENT": run.traceparent}
    rest = {name: value for name, value in os.environ.items() if name not in told}
    return {**rest, **{name: value for name, value in told.items() if value is not None}}


def _end(run: TrackedRun, wrapped: Wrapped, folder: Folder, timeout_s: float) -> Ending:
    """Put into the run what the command left, cut to what an output may hold, and say how it ended."""
    found = read_outputs(folder.outputs)
    judged = judge(wrapped.outcome, found, timeout_s)
    outputs = None if isinstance(found, Unreadable) else found
    whole = Output(
        status=judged.status,
        stdout=_kept(folder.logs.stdout),
        stderr=_kept(folder.logs.stderr),
        outputs=msgspec.Raw(msgspec.json.encode(outputs)),
    )
    cut, _ = cap(whole, MAX_OUTPUT_BYTES - _REST_BYTES)
    run.stdout, run.stderr = cut.stdout, cut.stderr
    run.outputs = outputs if bytes(cut.outputs) == bytes(whole.outputs) else None
    status, reason = judged.status, judged.reason
    if wrapped.asked is not None and status is Status.FAILED:
        status, reason = Status.CANCELLED, f"cancelled by {wrapped.asked.name}"
    code = wrapped.outcome.code if isinstance(wrapped.outcome, Exited) else None
    return Ending(status=status, reason=reason, exit_code=code)


def _kept(tail: Tail) -> str:
    return text(tail.read(), cut=tail.dropped_bytes > 0)


async def _is_acknowledged(publisher: AsyncPublisher) -> bool:
    try:
        await publisher.flush(ACKNOWLEDGED_S)
    except StoreUnavailable:
        return False
    return True


@contextmanager
def _folder() -> Iterator[Folder]:
    """Make the folder, and remove it whatever is in it. Raises: Trouble."""
    try:
        path = Path(tempfile.mkdtemp(prefix="runstore-exec-"))
    except OSError as error:
        raise Trouble(f"there is no folder for what the command leaves: {error.strerror}; set TMPDIR") from None
    try:
        with Tail(path / "stdout", KEEP_BYTES) as stdout, Tail(path / "stderr", KEEP_BYTES) as stderr:
            yield Folder(outputs=path / "outputs.json", logs=Logs(stdout=stdout, stderr=stderr))
    finally:
        shutil.rmtree(path, ignore_errors=True)
