"""The hook for taskiq: `install(broker)`, where the broker is made, after its other middlewares.

It is one middleware at the end of the broker's list, where it hears last that a task is sent or begins, and first of an
error. A retry is a task that is sent again, or scheduled, while it is at work here, whoever does it: retry
middlewares of anybody's own are heard as well as taskiq's. It is told before the task is sent, since another worker may
have it right after.
"""

import asyncio
import functools
import traceback
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from taskiq import AsyncBroker, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError

from runstore.core.status import Status
from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here
from runstore.publish import PublisherConfig

_TRACEPARENT: Final = "traceparent"
_RETRIES: Final = "_retries"
_REQUEUES: Final = "X-Taskiq-requeue"


def install(
    broker: AsyncBroker,
    *,
    redis_url: str | None = None,
    project: str | None = None,
    config: PublisherConfig | None = None,
) -> Reporter:
    """Publish what becomes of a broker's tasks, and return what publishes it. A second call changes nothing.

    `redis_url` and `project` unset are RUNSTORE_REDIS_URL and RUNSTORE_PROJECT.

    Raises: InvalidRequest where one of them is told nowhere, or cannot be.
    """
    for middleware in broker.middlewares:
        if isinstance(middleware, _Hook):
            return middleware.reporter
    hook = _Hook(Reporter(redis_url, project, config=config))
    broker.add_middlewares(hook)
    return hook.reporter


class _Work(msgspec.Struct, kw_only=True, eq=False):
    """One attempt at a task."""

    task_id: str
    attempt: int
    error: BaseException | None = None
    is_over: bool = False
    goes_on: bool = False
    """Whether it is over for this attempt only."""
    execution: "asyncio.Task[Any] | None" = None
    outer: "_Work | None" = None
    """What the same asyncio task is at as well: a broker in memory executes in place what is sent."""


_here: Final[ContextVar[_Work | None]] = ContextVar("runstore_taskiq_work", default=None)


class _Hook(TaskiqMiddleware):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter
        self._works: dict[str, _Work] = {}

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        work = _work_on(message)
        if work is not None and not work.is_over:
            await self._lets_go(work)
        if _TRACEPARENT not in message.labels and (traceparent := traceparent_here()) is not None:
            message.labels[_TRACEPARENT] = traceparent
        return message

    async def post_send(self, message: TaskiqMessage) -> None:
        if _attempt_of(message) == 1:
            self.reporter.queued(message.task_id, traceparent=_traceparent_of(message))

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        execution, outer = asyncio.current_task(), _here.get()
        if outer is not None and outer.execution is not execution:
            outer = None
        attempt = _attempt_of(message)
        work = _Work(task_id=message.task_id, attempt=attempt, execution=execution, outer=outer)
        _here.set(work)
        self._works[work.task_id] = work
        self.reporter.began(work.task_id, attempt=attempt, traceparent=_traceparent_of(message))
        if execution is not None:
            execution.add_done_callback(functools.partial(self._leaves, work))
        return message

    async def on_error(self, message: TaskiqMessage, result: "TaskiqResult[Any]", exception: BaseException) -> None:
        if (work := _work_on(message)) is not None:
            work.error = exception

    async def post_execute(self, message: TaskiqMessage, result: "TaskiqResult[Any]") -> None:
        work = _work_on(message)
        if work is None:
            return
        _here.set(work.outer)
        if work.is_over:
            return
        if self._comes_again(work, message, result):
            await self._lets_go(work)
        else:
            await self.reporter.settled(self._ends(work, message, result))

    async def shutdown(self) -> None:
        """Tell of the tasks that taskiq waits for no longer."""
        for work in list(self._works.values()):
            self._over(work)
            reason = "the worker was stopped"
            await self.reporter.settled(
                self.reporter.ended(work.task_id, Status.CANCELLED, reason, attempt=work.attempt)
            )

    def _ends(self, work: _Work, message: TaskiqMessage, result: "TaskiqResult[Any]") -> Future[None]:
        self._over(work)
        task_id, attempt, error = work.task_id, work.attempt, work.error
        if error is None or isinstance(error, NoResultError):  # the latter keeps no result, and that is all
            return self.reporter.succeeded(task_id, result.return_value, attempt=attempt)
        limit_s = message.labels.get("timeout")
        if limit_s is not None and type(error) is TimeoutError and not error.args:
            reason, stderr = f"TimeoutError: no end within {limit_s} s", "".join(traceback.format_exception(error))
            return self.reporter.ended(task_id, Status.TIMED_OUT, reason, attempt=attempt, stderr=stderr)
        return self.reporter.failed(task_id, error, attempt=attempt)

    def _comes_again(self, work: _Work, message: TaskiqMessage, result: "TaskiqResult[Any]") -> bool:
        """Whether a task whose labels count one more attempt has it: by a requeue, or by a schedule."""
        if work.error is None or _attempt_of(message) <= work.attempt:
            return False
        scheduled = any(getattr(middleware, "schedule_source", None) for middleware in self.broker.middlewares)
        return scheduled or isinstance(result.error, NoResultError)

    async def _lets_go(self, work: _Work) -> None:
        """Tell that there will be another attempt, unless it has begun here already."""
        work.goes_on = True
        if not self._over(work):
            return
        if work.error is None or isinstance(work.error, NoResultError):
            why = f"attempt {work.attempt} is over; trying again"
            told = self.reporter.handed_on(work.task_id, why, attempt=work.attempt)
        else:
            told = self.reporter.will_retry(work.task_id, work.error, attempt=work.attempt)
        await self.reporter.settled(told)

    def _over(self, work: _Work) -> bool:
        """Take note that nothing more is to be told of it, and say whether it was the task's newest attempt here."""
        work.is_over = True
        is_newest = self._works.get(work.task_id) is work
        if is_newest:
            del self._works[work.task_id]
        return is_newest

    def _leaves(self, work: _Work, execution: "asyncio.Task[Any]") -> None:
        """Tell of what taskiq itself or a middleware made fail: there is neither an end nor another attempt."""
        error = None if execution.cancelled() else execution.exception()
        if not work.is_over or (work.goes_on and error is not None):
            self._over(work)
            self.reporter.failed(work.task_id, error or asyncio.CancelledError(), attempt=work.attempt)


def _work_on(message: TaskiqMessage) -> _Work | None:
    """Return what is at work here on a task, if anything is."""
    work = _here.get()
    while work is not None and work.task_id != message.task_id:
        work = work.outer
    return work


def _attempt_of(message: TaskiqMessage) -> int:
    """Return the number of the attempt: neither retries nor requeues are ever forgotten."""
    return 1 + _number(message.labels.get(_RETRIES)) + _number(message.labels.get(_REQUEUES))


def _number(label: object) -> int:
    try:
        return max(0, int(str(label or 0)))
    except ValueError:
        return 0


def _traceparent_of(message: TaskiqMessage) -> str | None:
    told = message.labels.get(_TRACEPARENT)
    return told if isinstance(told, str) else None
