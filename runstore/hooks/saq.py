"""The hook for SAQ: `install(queue)`, where the queue is made, for workers and for those who queue jobs alike.

Everything that becomes of a job goes through its queue, whoever does it: a worker, the sweep of stuck jobs, somebody
who aborts a job that waits. So the queue's own methods are what is listened to, and `before_process` and
`after_process` of a worker stay the user's.

A worker calls `update`, `finish` and `retry` in the task that processes the job, where the error is being handled.
"""

import asyncio
import contextlib
import functools
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final
from weakref import WeakKeyDictionary

from saq.job import Job, Status
from saq.queue import Queue

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status as RunStatus
from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here
from runstore.publish import PublisherConfig

_TRACEPARENT: Final = "traceparent"
_CRON: Final = "cron:"
_Method = Callable[..., Awaitable[Any]]


def install(
    app: Any, *, redis_url: str | None = None, project: str | None = None, config: PublisherConfig | None = None
) -> Reporter:
    """Publish what becomes of a queue's jobs, and return what publishes it. A second call changes nothing.

    `app` is the Queue, or the settings (a dict) or Worker that have one. `redis_url` and `project` unset are
    RUNSTORE_REDIS_URL and RUNSTORE_PROJECT.

    Raises: InvalidRequest where one of them is told nowhere, or cannot be, or for something else.
    """
    queue = app.get("queue") if isinstance(app, dict) else getattr(app, "queue", app)
    if not isinstance(queue, Queue):
        raise InvalidRequest(f"install takes a Queue, or settings or a Worker that have one, and not {app!r:.60}")
    if queue not in _installed:
        reporter = Reporter(redis_url, project, config=config)
        _Hook(queue, reporter).listen()
        _installed[queue] = reporter
    return _installed[queue]


class _Hook:
    def __init__(self, queue: Queue, reporter: Reporter) -> None:
        self._queue = queue
        self._reporter = reporter

    def listen(self) -> None:
        queue: Any = self._queue
        queue.register_before_enqueue(self._take_trace_along)
        queue.enqueue = self._enqueues(queue.enqueue)
        queue.update = self._updates(queue.update)
        queue.finish = self._finishes(queue.finish)
        queue.retry = self._retries(queue.retry)

    async def _take_trace_along(self, job: Job) -> None:
        if (
            isinstance(job.meta, dict)
            and _TRACEPARENT not in job.meta
            and (traceparent := traceparent_here()) is not None
        ):
            job.meta[_TRACEPARENT] = traceparent

    def _enqueues(self, enqueue: _Method) -> _Method:
        @functools.wraps(enqueue)
        async def enqueued(job_or_func: str | Job, **kwargs: Any) -> Any:
            job = await enqueue(job_or_func, **kwargs)
            if job is not None:  # else it waits or runs already
                self._reporter.queued(_task_id(job), traceparent=_traceparent_of(job))
            return job

        return enqueued

    def _updates(self, update: _Method) -> _Method:
        @functools.wraps(update)
        async def updated(job: Job, **kwargs: Any) -> None:
            await update(job, **kwargs)
            if kwargs.get("status") == Status.ACTIVE:
                self._reporter.began(_task_id(job), attempt=job.attempts, traceparent=_traceparent_of(job))

        return updated

    def _finishes(self, finish: _Method) -> _Method:
        @functools.wraps(finish)
        async def finished(
            job: Job, status: Status, *, result: Any = None, error: str | None = None, **kwargs: Any
        ) -> None:
            raised = sys.exc_info()[1]
            await finish(job, status, result=result, error=error, **kwargs)
            told = self._tell_end(job, status, result, error or "", raised)
            if told is not None:
                await self._settle(told)

        return finished

    async def _settle(self, told: Future[None]) -> None:
        """Wait for what was told, also when the worker is stopped: SAQ would take the job for one that did not end."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._reporter.settled(told)

    def _tell_end(
        self, job: Job, status: Status, result: Any, error: str, raised: BaseException | None
    ) -> Future[None] | None:
        reporter, task_id, attempt = self._reporter, _task_id(job), job.attempts or None
        match status:
            case Status.COMPLETE:
                return reporter.succeeded(task_id, result, attempt=attempt)
            case Status.FAILED if raised is not None and not _is_time_limit(job, raised):
                return reporter.failed(task_id, raised, attempt=attempt)
            case Status.FAILED if raised is not None:
                reason = f"TimeoutError: no end within {job.timeout:g} s"
                return reporter.ended(task_id, RunStatus.TIMED_OUT, reason, attempt=attempt, stderr=error)
            case Status.FAILED:  # by somebody's own call
                reason = error.strip().rpartition("\n")[2] or "failed"
                return reporter.failed(task_id, reason, attempt=attempt, stderr=error)
            case Status.ABORTED if error == self._queue.swept_error_message and job.retryable:
                return reporter.handed_on(task_id, "swept as stuck; trying again", attempt=attempt)
            case Status.ABORTED if error == self._queue.swept_error_message:
                return reporter.ended(task_id, RunStatus.TIMED_OUT, "swept as stuck", attempt=attempt)
            case Status.ABORTED:
                return reporter.ended(task_id, RunStatus.CANCELLED, f"aborted: {error}".rstrip(": "), attempt=attempt)
        return None

    def _retries(self, retry: _Method) -> _Method:
        @functools.wraps(retry)
        async def retried(job: Job, error: str | None) -> None:
            raised = sys.exc_info()[1]
            reporter, task_id, attempt = self._reporter, _task_id(job), max(job.attempts, 1)
            if isinstance(raised, asyncio.CancelledError):  # the worker ends soon, and must be done with this before
                told = reporter.handed_on(task_id, "the worker was stopped; trying again", attempt=attempt)
                await retry(job, error)
                await self._settle(told)
                return
            why = raised or (error or "").strip().rpartition("\n")[2]
            await self._settle(reporter.will_retry(task_id, why, attempt=attempt))
            await retry(job, error)  # another worker may have it right after

        return retried


def _task_id(job: Job) -> str:
    """Return what tells a job from all others: its key, but for cron jobs, which all have their function's."""
    return f"{job.key}:{job.scheduled}" if job.key.startswith(_CRON) and job.scheduled else job.key


def _traceparent_of(job: Job) -> str | None:
    told = job.meta.get(_TRACEPARENT) if isinstance(job.meta, dict) else None
    return told if isinstance(told, str) else None


def _is_time_limit(job: Job, raised: BaseException) -> bool:
    """Whether it was SAQ that raised a TimeoutError, and not the function."""
    ran_ms = job.completed - job.started if job.started else 0
    return type(raised) is TimeoutError and not raised.args and 0 < (job.timeout or 0) * 1000 <= ran_ms


_installed: Final["WeakKeyDictionary[Queue, Reporter]"] = WeakKeyDictionary()
