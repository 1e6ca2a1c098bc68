"""The hook for Huey: `install(huey)`, where it is made, for those who queue and for the consumer alike.

A task is a run. What it returned or raised is told by Huey's hooks around an execution, which no signal tells; that it
will not be executed, by signals. What neither tells is seen around `enqueue` and `execute` themselves: that a task was
really queued, that a result could not be stored or a retry not be queued.

Huey carries nothing beside a task but its arguments, and its `retries` count down from a number that is not kept. So
the number of the attempt and the trace, where there are any to tell of, lie under a key of the task's own in Huey's
storage, as its revocations do, until the run ends.
"""

import logging
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
from huey import exceptions
from huey.api import Huey, Task
from huey.exceptions import CancelExecution
from huey.signals import SIGNAL_CANCELED, SIGNAL_EXPIRED, SIGNAL_INTERRUPTED, SIGNAL_REVOKED

from runstore.core.status import Status
from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here
from runstore.publish import PublisherConfig
from runstore.publish.tracked import reason_of

_NAME: Final = "runstore"
_LOG: Final = logging.getLogger("runstore.hooks")
_TIME_LIMIT: Final[tuple[type[BaseException], ...]] = (
    (exceptions.TaskTimeout,) if hasattr(exceptions, "TaskTimeout") else ()  # Huey 2 has no time limit
)
_installed: Final["WeakKeyDictionary[Huey, Reporter]"] = WeakKeyDictionary()


def install(
    huey: Huey,
    *,
    redis_url: str | None = None,
    project: str | None = None,
    config: PublisherConfig | None = None,
) -> Reporter:
    """Publish what becomes of every task of a Huey, and return what publishes it. A second call changes nothing.

    `redis_url` and `project` unset are RUNSTORE_REDIS_URL and RUNSTORE_PROJECT.

    Raises: InvalidRequest where one of them is told nowhere, or cannot be.
    """
    if huey not in _installed:
        reporter = Reporter(redis_url, project, config=config)
        _Hook(huey, reporter).connect()
        _installed[huey] = reporter
    return _installed[huey]


class _Work(msgspec.Struct, kw_only=True):
    """One execution, as far as it is known."""

    task: Task
    attempt: int = 1
    traceparent: str | None = None
    has_note: bool = False
    is_cancelled: bool = False
    will_retry: bool = False
    told: Future[None] | None = None


class _Here(threading.local):
    """What this thread executes, the innermost last: in immediate mode a task executes others, and its own retry."""

    def __init__(self) -> None:
        self.works: list[_Work] = []


class _Hook:
    def __init__(self, huey: Huey, reporter: Reporter) -> None:
        self._huey = huey
        self._reporter = reporter
        self._here = _Here()

    def connect(self) -> None:
        app = self._huey
        app.deserialize_task = self._recognising(app.deserialize_task)
        app.enqueue = self._telling(app.enqueue)
        app.execute = self._watching(app.execute)
        app.pre_execute(_NAME)(self._before)
        app.post_execute(_NAME)(self._after)
        app.signal(SIGNAL_CANCELED)(self._cancelled)
        app.signal(SIGNAL_REVOKED, SIGNAL_EXPIRED)(self._not_executed)
        app.signal(SIGNAL_INTERRUPTED)(self._interrupted)

    def _recognising(self, deserialize: Callable[[Any], Task]) -> Callable[[Any], Task]:
        """Mark what comes from the storage: when that is queued, it is for a delay or a retry, and known already."""

        def deserialize_task(data: Any) -> Task:
            task = deserialize(data)
            task.runstore_knows = True
            return task

        return deserialize_task

    def _telling(self, enqueue: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def queue(task: Any) -> Any:
            if not isinstance(task, Task) or getattr(task, "runstore_knows", False):
                return enqueue(task)
            task.runstore_knows = True
            traceparent = _traceparent_of(task)
            if traceparent is not None:
                self._put_note(task, 1, traceparent)
            if self._huey.immediate:
                self._reporter.queued(task.id, traceparent=traceparent)
                return enqueue(task)
            result = enqueue(task)
            self._reporter.queued(task.id, traceparent=traceparent)
            return result

        return queue

    def _watching(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        def watched(task: Task, *args: Any, **kwargs: Any) -> Any:
            work = _Work(task=task)
            self._here.works.append(work)
            try:
                return execute(task, *args, **kwargs)
            except BaseException as error:
                if work.told is None or work.will_retry:
                    work.told = self._reporter.failed(task.id, error, attempt=work.attempt)
                    work.will_retry = False
                raise
            finally:
                self._here.works.pop()
                self._conclude(work)

        return watched

    def _conclude(self, work: _Work) -> None:
        if work.told is None and work.is_cancelled:
            work.told = self._reporter.ended(work.task.id, Status.CANCELLED, "cancelled by a pre-execute hook")
        if work.told is not None:
            if work.has_note and not work.will_retry:
                self._drop_note(work.task)
            self._reporter.settle(work.told)

    def _before(self, task: Task) -> None:
        work = self._here.works[-1]
        self._read_note(work)
        self._reporter.began(task.id, attempt=work.attempt, traceparent=work.traceparent)

    def _after(self, task: Task, returned: Any, error: BaseException | None) -> None:
        work = self._here.works[-1]
        if error is None:
            work.told = self._reporter.succeeded(task.id, returned, attempt=work.attempt)
        elif task.retries:
            work.will_retry = work.has_note = True
            work.told = self._reporter.will_retry(task.id, error, attempt=work.attempt)
            self._put_note(task, work.attempt + 1, work.traceparent)
            self._reporter.settle(work.told)  # another worker may have it right after
        elif isinstance(error, (CancelExecution, *_TIME_LIMIT)):
            status = Status.CANCELLED if isinstance(error, CancelExecution) else Status.TIMED_OUT
            stderr = "".join(traceback.format_exception(error))
            work.told = self._reporter.ended(task.id, status, reason_of(error), attempt=work.attempt, stderr=stderr)
        else:
            work.told = self._reporter.failed(task.id, error, attempt=work.attempt)

    def _cancelled(self, signal: str, task: Task) -> None:
        self._here.works[-1].is_cancelled = True

    def _not_executed(self, signal: str, task: Task) -> None:
        work = self._here.works[-1]
        status = Status.CANCELLED if signal == SIGNAL_REVOKED else Status.TIMED_OUT
        work.has_note = True  # perhaps; to look costs what to drop does
        work.told = self._reporter.ended(task.id, status, f"{signal} before it was executed")

    def _interrupted(self, signal: str, task: Task) -> None:
        """Tell that a consumer that is stopped gives a task up: in a worker process, or in the thread that ends all."""
        told = self._reporter.ended(task.id, Status.CANCELLED, "interrupted: the consumer was stopped")
        for work in self._here.works:
            if work.task is task:
                work.told = told
        self._drop_note(task)
        self._reporter.settle(told)

    def _read_note(self, work: _Work) -> None:
        try:
            note = self._huey.get(_key(work.task), peek=True)
            if note is not None:
                work.attempt, work.traceparent, work.has_note = int(note["attempt"]), note["traceparent"], True
        except Exception:  # noqa: BLE001 - the task goes on whatever we make of it
            _LOG.exception("attempt_not_known", extra={"task_id": work.task.id})

    def _put_note(self, task: Task, attempt: int, traceparent: str | None) -> None:
        try:
            self._huey.put(_key(task), {"attempt": attempt, "traceparent": traceparent})
        except Exception:  # noqa: BLE001 - as above
            _LOG.exception("attempt_not_noted", extra={"task_id": task.id})

    def _drop_note(self, task: Task) -> None:
        try:
            self._huey.delete(_key(task))
        except Exception:  # noqa: BLE001 - as above
            _LOG.exception("note_not_dropped", extra={"task_id": task.id})


def _traceparent_of(task: Task) -> str | None:
    here = traceparent_here()
    given: str | None = getattr(task, "traceparent", None)
    return given or here


def _key(task: Task) -> str:
    return f"{_NAME}:{task.id}"
