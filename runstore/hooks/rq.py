"""The hook for RQ: `install(queue)` where jobs are queued, `install(Worker)` where the worker's class is made or named.

A job is a run. RQ has no signals, so that the methods through which every job goes are put into brackets: of a queue
(or of all, given the class) those that queue, of its class of jobs the one that cancels, of a worker's class those that
perform a job and those that RQ calls with its end. They are the same in RQ 2 and 3, in workers that fork and that do
not.

A work horse tells the end of its job and waits until it is told, since it ends with `os._exit`. What a horse cannot
tell, that it was killed or stopped, the worker tells that had it. The attempt's number, which RQ does not keep, lies in
the job's meta beside the trace.
"""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from rq import Queue
from rq.job import Job
from rq.timeouts import JobTimeoutException
from rq.worker import BaseWorker

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here
from runstore.publish import PublisherConfig
from runstore.publish.tracked import reason_of

_ATTEMPT: Final = "runstore_attempt"
_TRACEPARENT: Final = "traceparent"
_HOOK: Final = "_runstore_hook"
_BEFORE_IT_BEGAN: Final = frozenset({"created", "queued", "deferred", "scheduled", "ready"})
Method = Callable[..., Any]


def install(
    target: Queue | type[Queue] | BaseWorker | type[BaseWorker],
    *,
    redis_url: str | None = None,
    project: str | None = None,
    config: PublisherConfig | None = None,
) -> Reporter:
    """Publish what becomes of the jobs of a queue or a worker, or of all of a class; return what publishes it.

    A second call changes nothing. `redis_url` and `project` unset are RUNSTORE_REDIS_URL and RUNSTORE_PROJECT.

    Raises: InvalidRequest where one of them is told nowhere, or cannot be, and for a target of another kind.
    """
    kind = target if isinstance(target, type) else type(target)
    if not issubclass(kind, Queue | BaseWorker):
        raise InvalidRequest(f"install takes a queue, a worker, or the class of either, and {target!r} is none")
    hook: _Hook | None = getattr(target, _HOOK, None)
    if hook is None:
        hook = _Hook(Reporter(redis_url, project, config=config))
        if issubclass(kind, Queue):
            hook.hear_queue(target)
        else:
            hook.hear_worker(target)
        setattr(target, _HOOK, hook)
    return hook.reporter


class _Hook:
    """What is told when the methods are called. Each takes the object, the method in its place, and the arguments."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._at_work: set[str] = set()

    def hear_queue(self, queue: Any) -> None:
        """Bracket the methods of a queue, or of a class of queues."""
        _bracket(queue, "create_job", self._creates)
        _bracket(queue, "enqueue_job", self._enqueues)
        _bracket(queue, "enqueue_many", self._enqueues_many)
        _bracket(queue, "schedule_job", self._enqueues)
        _bracket(queue, "run_job", self._runs_in_place)
        hooks = _of_jobs.get(queue.job_class)
        if hooks is None:
            hooks = _of_jobs[queue.job_class] = {}
            _bracket(queue.job_class, "cancel", functools.partial(_cancels, hooks))
        hooks[None if isinstance(queue, type) else queue.name] = self

    def hear_worker(self, worker: Any) -> None:
        """Bracket the methods of a worker, or of a class of workers."""
        _bracket(worker, "execute_job", self._executes)
        _bracket(worker, "perform_job", self._performs)
        _bracket(worker, "handle_job_success", self._succeeds)
        _bracket(worker, "handle_job_failure", self._fails)
        if hasattr(worker, "handle_job_retry"):
            _bracket(worker, "handle_job_retry", self._returns_retry)

    def _creates(self, _: Queue, create: Method, *args: Any, **kwargs: Any) -> Job:
        return _with_trace(create(*args, **kwargs))

    def _enqueues(self, queue: Queue, enqueue: Method, job: Job, *args: Any, **kwargs: Any) -> Job:
        queued: Job = enqueue(_with_trace(job), *args, **kwargs)
        return self._queued(queue, [queued])[0]

    def _enqueues_many(self, queue: Queue, enqueue: Method, *args: Any, **kwargs: Any) -> list[Job]:
        return self._queued(queue, enqueue(*args, **kwargs))

    def _queued(self, queue: Queue, jobs: list[Job]) -> list[Job]:
        for job in jobs if queue.is_async else ():
            if _attempt(job) == 1:  # a retry is scheduled in the same way
                self.reporter.queued(job.id, traceparent=_traceparent(job))
        return jobs

    def _runs_in_place(self, _: Queue, run: Method, job: Job, *args: Any, **kwargs: Any) -> Job:
        self.reporter.began(job.id, traceparent=_traceparent(job))
        try:
            done: Job = run(job, *args, **kwargs)
        except BaseException as error:
            self.reporter.settle(self.reporter.failed(job.id, error))
            raise
        self.reporter.settle(self.reporter.succeeded(job.id, getattr(job, "_result", None)))
        return done

    def _executes(self, _: BaseWorker, execute: Method, *args: Any, **kwargs: Any) -> None:
        execute(*args, **kwargs)
        self.reporter.adopt()  # what the horse had to leave behind, were the store away

    def _performs(self, _: BaseWorker, perform: Method, job: Job, *args: Any, **kwargs: Any) -> bool:
        self._at_work.add(job.id)
        self.reporter.began(job.id, attempt=_attempt(job), traceparent=_traceparent(job))
        try:
            performed: bool = perform(job, *args, **kwargs)
        finally:
            self._at_work.discard(job.id)
        return performed

    def _succeeds(self, _: BaseWorker, handle: Method, job: Job, *args: Any, **kwargs: Any) -> None:
        handle(job, *args, **kwargs)
        self.reporter.settle(self.reporter.succeeded(job.id, getattr(job, "_result", None), attempt=_attempt(job)))

    def _fails(self, worker: BaseWorker, handle: Method, job: Job, *args: Any, **kwargs: Any) -> None:
        attempt = _attempt(job)
        # in a horse the error of the job is being handled; a worker has but a sentence on its horse
        error = sys.exc_info()[1] or str(kwargs.get("exc_string") or "it was lost").rstrip("; ")
        if getattr(worker, "_stopped_job_id", None) == job.id:
            told = self.reporter.ended(job.id, Status.CANCELLED, "stopped", attempt=attempt)
        elif (getattr(job, "retries_left", None) or 0) > 0:
            _put(job, _ATTEMPT, attempt + 1)
            told = self.reporter.will_retry(job.id, error, attempt=attempt)
        elif isinstance(error, JobTimeoutException):
            stderr = "".join(traceback.format_exception(error))
            told = self.reporter.ended(job.id, Status.TIMED_OUT, reason_of(error), attempt=attempt, stderr=stderr)
        else:
            told = self.reporter.failed(job.id, error, attempt=attempt)
        try:
            handle(job, *args, **kwargs)
        finally:
            if job.id in self._at_work:
                self.reporter.settle(told)

    def _returns_retry(self, _: BaseWorker, handle: Method, job: Job, *args: Any, **kwargs: Any) -> None:
        retry, attempt = kwargs["retry"], _attempt(job)
        if job.number_of_retries and job.number_of_retries >= retry.max:
            told = self.reporter.failed(job.id, f"it asked for more than {retry.max} retries", attempt=attempt)
        else:
            _put(job, _ATTEMPT, attempt + 1)
            told = self.reporter.will_retry(job.id, "it asked to be tried again", attempt=attempt)
        try:
            handle(job, *args, **kwargs)
        finally:
            self.reporter.settle(told)


_of_jobs: Final[dict[type[Job], dict[str | None, _Hook]]] = {}
"""The hooks that hear of cancels, by the class of jobs and the name of the queue (None: those of a class of queues)."""


def _cancels(hooks: dict[str | None, _Hook], job: Job, cancel: Method, *args: Any, **kwargs: Any) -> Any:
    waited = job.get_status() in _BEFORE_IT_BEGAN
    done = cancel(*args, **kwargs)
    hook = hooks.get(job.origin) or hooks.get(None)
    if hook is not None and waited:  # one that has begun goes on, whatever its status says: it can but be stopped
        hook.reporter.ended(job.id, Status.CANCELLED, "cancelled")
    return done


def _bracket(owner: Any, name: str, around: Method) -> None:
    """Put a function around a method of an object, or of a class."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self, functools.partial(inner, self), *args, **kwargs)

    @functools.wraps(inner)
    def bound(*args: Any, **kwargs: Any) -> Any:
        return around(owner, inner, *args, **kwargs)

    setattr(owner, name, method if isinstance(owner, type) else bound)


def _with_trace(job: Job) -> Job:
    traceparent = _traceparent(job) or traceparent_here()
    if traceparent is not None:
        _put(job, _TRACEPARENT, traceparent)
    return job


def _put(job: Job, name: str, value: object) -> None:
    if isinstance(job.meta, dict):
        job.meta[name] = value


def _get(job: Job, name: str, default: Any) -> Any:
    """Return what is told in a job's meta, which is anybody's."""
    told = job.meta.get(name) if isinstance(job.meta, dict) else None
    return told if isinstance(told, type(default)) else default


def _attempt(job: Job) -> int:
    return int(_get(job, _ATTEMPT, 1))


def _traceparent(job: Job) -> str | None:
    return str(_get(job, _TRACEPARENT, "")) or None
