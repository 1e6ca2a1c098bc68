"""What every hook tells of its framework's tasks, in the store's words, without ever being in their way.

A task is a run: its id is the task's where that is a UUID, else one derived from project and task id. What the
framework calls a retry is another attempt of the same run, and only the end of the last attempt is the run's.

Events go out in the background, in the order in which they are told. Each call returns a future that is done when the
event is acknowledged, safe in the spool or given up; it never holds an error. A hook waits for it, with `settle` or
`settled`, where the process may end right after, which is at a task's end.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextvars import Token
from typing import Any, Final
from uuid import UUID

# A publisher imports both when it is made, which may be after a fork: to have them here spares children that live for a
# single task the time.
import runstore.adapters.store
import runstore.publish.leases  # noqa: F401
from runstore.core.errors import RunstoreError
from runstore.core.ids import RunId, derive_run_id
from runstore.core.status import Status
from runstore.publish import Publisher, PublisherConfig, TrackedRun
from runstore.publish.event import make_event
from runstore.publish.track import Story, TrackOptions, enter, keep_returned, leave
from runstore.publish.tracked import Ending, ending_of

SETTLE_S: Final = 60.0
"""Seconds that a task's end is waited for at most; the publisher's own bounds are tighter, but for large outputs."""

ADOPT_S: Final = 1.0
"""Seconds between two attempts to send what was left behind."""

_LOG: Final = logging.getLogger("runstore.hooks")
_Begun = tuple[Story, Token[TrackedRun | None]]


class Reporter:
    """Tell what becomes of tasks, from any thread, also in processes forked from the one that made it.

    Nothing here raises, but for the making.

    Raises: InvalidRequest where the address of Redis or the project is told neither here nor by the environment.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        project: str | None = None,
        *,
        config: PublisherConfig | None = None,
        worker: str | None = None,
    ) -> None:
        self._publisher = Publisher(redis_url, project, config=config)
        self.project = self._publisher.project_of(project)
        self._worker = worker
        self._begun: dict[str, _Begun] = {}
        self._adopting: Future[None] | None = None

    def run_id(self, task_id: str) -> RunId:
        """Return the id of a task's run: the task's own where it is a UUID in any spelling, else derived from it."""
        try:
            return RunId(str(UUID(task_id)))
        except ValueError:
            return derive_run_id(self.project, task_id)

    def queued(self, task_id: str, *, tags: Sequence[str] = (), traceparent: str | None = None) -> Future[None]:
        """Tell that a task waits for a worker."""
        try:
            told = self._options(task_id, tags=tags, traceparent=traceparent).told()
            return self._tell(self._publish_queued(self.run_id(task_id), told))
        except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
            _LOG.exception("queued_not_told")
            return _nothing()

    def began(
        self, task_id: str, *, attempt: int = 1, tags: Sequence[str] = (), traceparent: str | None = None
    ) -> TrackedRun | None:
        """Tell that a worker works on a task from now on, which `current_run()` returns to the task; waits for nothing.

        From here to the end of the attempt the run is held by a lease: should the process die, the run ends.
        None where even that cannot be told, which is logged.
        """
        try:
            options = self._options(task_id, attempt=attempt, tags=tags, traceparent=traceparent)
            story = Story(self._publisher.here()[0], options)
        except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
            _LOG.exception("beginning_not_told", extra={"task_id": task_id})
            return None
        self._end(task_id)
        self._begun[task_id] = (story, enter(story.run))
        self._tell(story.begin())
        return story.run

    def will_retry(self, task_id: str, error: BaseException | str, *, attempt: int = 1) -> Future[None]:
        """Tell that an attempt failed and that there will be another: the run goes on."""
        said = error if isinstance(error, str) else (ending_of(error).reason or "")
        return self.handed_on(task_id, f"attempt {attempt} failed: {said}; trying again", attempt=attempt)

    def handed_on(self, task_id: str, why: str, *, attempt: int | None = None) -> Future[None]:
        """Tell that this worker lets a task go that has not ended: another one, or a later attempt, has its end."""
        story = self._end(task_id) or self._story(task_id, attempt)
        return self._tell(story.pause(why)) if story else _nothing()

    def succeeded(self, task_id: str, returned: Any, *, attempt: int | None = None) -> Future[None]:
        """Tell that a task returned this, which becomes the run's outputs."""
        story = self._end(task_id) or self._story(task_id, attempt)
        if story is None:
            return _nothing()
        keep_returned(story.run, returned)
        return self._tell(story.finish(Ending(status=Status.SUCCESS)))

    def failed(
        self, task_id: str, error: BaseException | str, *, attempt: int | None = None, stderr: str | None = None
    ) -> Future[None]:
        """Tell that a task raised this (or, where only a text is at hand, failed for this reason) for the last time.

        A TimeoutError makes the run `timed_out`, a cancellation `cancelled`. `stderr` is told in place of the error's
        own traceback.
        """
        if isinstance(error, str):
            return self.ended(task_id, Status.FAILED, error, attempt=attempt, stderr=stderr or "")
        ending = ending_of(error)
        if ending.status is Status.SUCCESS:  # a SystemExit of 0 is no return
            ending = Ending(status=Status.FAILED, reason=type(error).__name__)
        return self.ended(
            task_id, ending.status, ending.reason, attempt=attempt, stderr=ending.stderr if stderr is None else stderr
        )

    def ended(
        self, task_id: str, status: Status, reason: str | None, *, attempt: int | None = None, stderr: str = ""
    ) -> Future[None]:
        """Tell how a task ended in anything but success, for a reason of one line."""
        story = self._end(task_id) or self._story(task_id, attempt)
        if story is None:
            return _nothing()
        line = " ".join(reason.split())[:1000] if reason else None
        return self._tell(story.finish(Ending(status=status, reason=line, stderr=stderr)))

    def settle(self, told: Future[None]) -> None:
        """Wait for what was told, for a bounded time."""
        try:
            told.result(SETTLE_S)
        except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
            _LOG.exception("not_settled")

    async def settled(self, told: Future[None]) -> None:
        """Wait for what was told, for a bounded time, without holding up the loop."""
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(told)), SETTLE_S)
        except Exception:  # noqa: BLE001 - as above
            _LOG.exception("not_settled")

    def adopt(self) -> None:
        """Begin to send what processes that ended left in their spools, as soon as the store is there.

        For the parents of processes that end with their task, so that no end waits for the next task to be told.
        """
        if self._adopting is None or self._adopting.done():
            self._adopting = self._tell(self._adopt())

    def close(self) -> None:
        """Send what is still to be sent, for a bounded time, and close the connections; may be called twice."""
        self._publisher.close()

    def _options(
        self, task_id: str, *, attempt: int | None = None, tags: Sequence[str] = (), traceparent: str | None = None
    ) -> TrackOptions:
        return TrackOptions(
            project_name=self.project,
            run_id=self.run_id(task_id),
            tags=tuple(tags),
            attempt=attempt,
            worker=self._worker,
            traceparent=traceparent,
        )

    def _story(self, task_id: str, attempt: int | None) -> Story | None:
        """Make the story of a task that another process, or nobody, began."""
        try:
            return Story(self._publisher.here()[0], self._options(task_id, attempt=attempt))
        except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
            _LOG.exception("end_not_told", extra={"task_id": task_id})
            return None

    def _end(self, task_id: str) -> Story | None:
        story, token = self._begun.pop(task_id, (None, None))
        leave(token)
        return story

    async def _publish_queued(self, run_id: RunId, told: Any) -> None:
        await self._publisher.here()[0].send(make_event(run_id, Status.PENDING, told))

    async def _adopt(self) -> None:
        while not await self._publisher.here()[0].deliver_abandoned():  # noqa: ASYNC110 - nothing tells of the store
            await asyncio.sleep(ADOPT_S)

    def _tell(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        try:
            return self._publisher.here()[1].submit(_quietly(work))
        except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
            work.close()
            _LOG.exception("not_told")
            return _nothing()


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except RunstoreError as error:
        _LOG.error("event_not_published", extra={"reason": error.detail[:200]})
    except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
        _LOG.exception("event_not_published")


def _nothing() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done
