"""Tracking: publish `running` when some work begins and its end when it ends, and never be in its way."""

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast
from uuid import uuid4

import msgspec

from runstore import telemetry
from runstore.core.errors import RunstoreError
from runstore.core.event import Event, Hold
from runstore.core.ids import RunId, parse_run_id
from runstore.core.status import Status
from runstore.publish.event import Told, make_event
from runstore.publish.tracked import Asked, Ending, TrackedRun, ending_of, lean_output_of, output_of

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LOG = logging.getLogger("runstore.publish")
_PROGRESS_S: Final = 1.0
_HELD_S: Final = 1.0
_current: ContextVar[TrackedRun | None] = ContextVar("runstore_current_run", default=None)


def current_run() -> TrackedRun | None:
    """Return the innermost tracked run that this code runs in, or None."""
    return _current.get()


class Sender(Protocol):
    """What tracking needs of a publisher."""

    async def send(self, event: Event) -> Any:
        """Send an event, and return when it is acknowledged."""
        ...

    def hold(self, run: TrackedRun, attempt: int) -> Asked | None:
        """Hold a run from now on, and tell it where it is cancelled; None where that cannot be."""
        ...

    def ending(self, run_id: RunId) -> None:
        """Hold it on while its end is told, but tell it of no cancel any more."""
        ...

    async def let_go(self, run_id: RunId, *, drop: bool) -> None:
        """Stop holding it; with `drop` its lease ends now, else with the run."""
        ...

    def keep(self, task: asyncio.Task[None]) -> None:
        """Let the publisher's end wait for a task."""
        ...


class TrackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every event of a tracked run says."""

    project_name: str
    run_id: str | None = None
    commit_sha: str | None = None
    tags: tuple[str, ...] = ()
    attempt: int | None = None
    worker: str | None = None
    traceparent: str | None = None

    def told(self, **more: Any) -> Told:
        """Return the fields of an event."""
        fields: dict[str, Any] = {
            name: getattr(self, name) for name in ("project_name", "commit_sha", "attempt", "worker", "traceparent")
        }
        return cast(Told, {**fields, "tags": self.tags, **more})


class Story:
    """The events of one tracked run, from `begin` to `finish`, which run in one event loop."""

    def __init__(self, sender: Sender, options: TrackOptions, *, on_cancel: Callable[[], object] | None = None) -> None:
        self.run_id = parse_run_id(options.run_id) if options.run_id is not None else RunId(str(uuid4()))
        # here and not in `begin`, which may run in another thread than the span that it lies beneath
        told: dict[str, Any] = {"run_id": self.run_id, "project": options.project_name, "attempt": options.attempt}
        self._span = telemetry.begin("runstore.track", options.traceparent, kind="consumer", **told)
        self._has_begun = False
        if self._span.traceparent is not None:
            options = msgspec.structs.replace(options, traceparent=self._span.traceparent)
        self.run = TrackedRun(
            self.run_id, options.project_name, self._notify, traceparent=options.traceparent, on_cancel=on_cancel
        )
        self._sender = sender
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hold: Hold | None = None
        self._told: dict[str, Any] | None = None
        self._next: dict[str, Any] | None = None
        self._pump: asyncio.Task[None] | None = None
        self.is_end_safe = False
        """Whether the end was acknowledged, or is in the spool."""

    async def begin(self) -> None:
        """Hold the run and publish `running`; a store that is away is logged.

        Work that begins when this returns ends its run also where it kills its process at once: the run is held by
        then, unless the store is away or slow.

        Raises: InvalidRequest, InvalidRunId.
        """
        self._loop = asyncio.get_running_loop()
        self._has_begun = True
        event = make_event(self.run.run_id, Status.RUNNING, self._options.told())
        held = self.hold()
        try:
            await self._send(msgspec.structs.replace(event, hold=self._hold))
        except Exception:
            await self._sender.let_go(event.run_id, drop=True)
            raise
        if self._told is not None:
            self._offer(self._told)
        if held is not None and not held.done():
            held_here = asyncio.wrap_future(held)
            try:
                await asyncio.wait({held_here}, timeout=_HELD_S - (time.monotonic() - self.run.began))
            finally:
                held_here.cancel()

    def hold(self) -> "Future[None] | None":
        """Hold the run, or hold it again where it was let go of; done when it is held, or cannot be for now."""
        asked = self._sender.hold(self.run, self._options.attempt or 1)
        self._hold = asked.hold if asked is not None else None
        return asked.answered if asked is not None else None

    async def pause(self, why: str) -> None:
        """Tell that an attempt is over and another will come; nobody holds the run until then."""
        await self._stop_progress()
        await self._sender.let_go(self.run_id, drop=True)
        event = make_event(self.run.run_id, Status.RUNNING, self._options.told(progress={"message": why}))
        # where the beginning waits in the spool, the run is held by that when it comes
        hold = msgspec.structs.replace(self._hold, term_ms=0) if self._hold is not None else None
        await self._send(msgspec.structs.replace(event, hold=hold))
        self._end_span(None)

    async def finish(self, ending: Ending) -> None:
        """Publish how it ended. Never raises, but for a cancellation, which does not stop the publishing."""
        self._end_span(ending)
        task = asyncio.get_running_loop().create_task(self._finish(ending))
        self._sender.keep(task)
        await asyncio.shield(task)

    async def _finish(self, ending: Ending) -> None:
        await self._stop_progress()
        self._sender.ending(self.run_id)
        try:
            self.is_end_safe = await self._send(self._end(ending))
        except Exception:  # noqa: BLE001 - the work's own error must not be masked by ours
            _LOG.exception("end_not_published", extra={"run_id": self.run.run_id})
        try:
            # and not before, or a run whose end is lost would be nobody's: its lease lapses now, and it is ended
            await self._sender.let_go(self.run_id, drop=False)
        except Exception:  # noqa: BLE001 - it ends by itself
            _LOG.exception("lease_left", extra={"run_id": self.run.run_id})

    def _end_span(self, ending: Ending | None) -> None:
        if not self._has_begun:
            return
        if ending is not None:
            self._span.note(status=ending.status.value)
            if ending.status is not Status.SUCCESS:
                self._span.fail(ending.status.value)
        self._span.end()

    async def _stop_progress(self) -> None:
        self._next = None
        if self._pump is not None:
            # A progress that came after the end would only be counted as ignored; it is not worth a long wait.
            await asyncio.wait({self._pump}, timeout=_PROGRESS_S)
            self._pump.cancel()

    def _end(self, ending: Ending) -> Event:
        run_id, status, reason = self.run.run_id, ending.status, ending.reason
        try:
            told = self._options.told(error_message=reason, output=output_of(self.run, ending))
            return make_event(run_id, status, told)
        except Exception as trouble:  # noqa: BLE001 - whatever lies in the run, its end is to be told
            why = trouble.detail if isinstance(trouble, RunstoreError) else type(trouble).__name__
            _LOG.error("output_left_out", extra={"run_id": run_id, "reason": why[:200]})
            lean = lean_output_of(ending, f"the output was left out: {why}")
            return make_event(run_id, status, self._options.told(error_message=reason, output=lean))

    async def _send(self, event: Event) -> bool:
        """Send an event; false where neither the store nor the spool took it, which is logged."""
        try:
            await self._sender.send(event)
            return True
        except RunstoreError as error:
            if not error.retryable:
                raise
            _LOG.error(
                "event_not_published",
                extra={"run_id": event.run_id, "status": event.status.value, "reason": error.detail[:200]},
            )
            return False

    def _notify(self, progress: dict[str, Any]) -> None:
        # The work may tell of it from any thread, before `begin` has begun, and when the loop is gone.
        self._told = progress
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._offer, progress)

    def _offer(self, progress: dict[str, Any]) -> None:
        self._next = progress
        if self._told is progress:
            self._told = None
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._send_progress())
            self._sender.keep(self._pump)

    async def _send_progress(self) -> None:
        while self._next is not None:
            progress, self._next = self._next, None
            try:
                await self._send(make_event(self.run.run_id, Status.RUNNING, self._options.told(progress=progress)))
            except Exception:  # noqa: BLE001 - progress is never in the way of the work
                _LOG.exception("progress_not_published", extra={"run_id": self.run.run_id})


class AsyncTrack:
    """Tracking as an asynchronous context manager, once, or as a decorator, for every call."""

    def __init__(self, sender: Sender, options: TrackOptions) -> None:
        self._sender = sender
        self._options = options
        self._story: Story | None = None
        self._entered_by = 0
        self._token: Token[TrackedRun | None] | None = None
        Story(sender, options)

    async def __aenter__(self) -> TrackedRun:
        if self._story is not None:
            raise RuntimeError("a tracking is entered once: call track() again for another run")
        self._story, self._entered_by = Story(self._sender, self._options), os.getpid()
        try:
            await self._story.begin()
        except BaseException as error:
            if not isinstance(error, Exception):  # a cancellation: it may have begun, and will not come to its end
                await self._story.finish(ending_of(error))
            raise
        self._token = _current.set(self._story.run)
        return self._story.run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._story is not None
        leave(self._token)
        if os.getpid() == self._entered_by:  # and not in a forked child: the end is its parent's to tell
            await self._story.finish(ending_of(error))

    def __call__(self, work: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
        """Decorate an `async def`, so that each call is a run.

        Raises: TypeError for another kind of function.
        """
        if not inspect.iscoroutinefunction(work):
            raise TypeError("this publisher tracks async functions: use Publisher for others")

        @functools.wraps(work)
        async def tracked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            async with AsyncTrack(self._sender, self._options) as run:
                returned = await work(*args, **kwargs)
                keep_returned(run, returned)
                return returned

        return tracked


def keep_returned(run: TrackedRun, returned: object) -> None:
    """Take what the work returned for its outputs, as it is; what it put there stays where it returned None."""
    is_untouched = isinstance(run.outputs, dict) and not run.outputs
    if returned is not None or is_untouched:
        run.outputs = returned


def enter(run: TrackedRun) -> Token[TrackedRun | None]:
    """Make a run the current one."""
    return _current.set(run)


def leave(token: Token[TrackedRun | None] | None) -> None:
    """Make the run before it the current one again."""
    if token is not None:
        with contextlib.suppress(ValueError):
            _current.reset(token)
