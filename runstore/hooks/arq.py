"""The hook for arq: `install(WorkerSettings)` for workers, `install(pool)` for those who queue jobs.

arq's own hooks do not hear how a job ended, and stay the user's. What a job's function did is seen around it; what arq
makes of that (an end, another try, or no try at all), where arq writes it down: `finish_job` and `finish_failed_job` of
the Worker. A worker is made from its settings by arq's command line, out of reach, so that a Worker looks at its
functions whether they came by way of `install`.
"""

import asyncio
import contextlib
import functools
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
from arq.connections import ArqRedis
from arq.worker import JobExecutionFailed, Worker

from runstore.core.errors import InvalidRequest
from runstore.core.status import Status
from runstore.hooks.arq_pool import carried_traceparent, carrying, join_pool, reading
from runstore.hooks.reporter import Reporter
from runstore.publish import PublisherConfig

_EXPIRED: Final = "job expired"
"""What arq says of a job that waited past its time."""


def install(
    app: Any, *, redis_url: str | None = None, project: str | None = None, config: PublisherConfig | None = None
) -> Reporter:
    """Publish what becomes of jobs, and return what publishes it. A second call changes nothing.

    `app` is the settings of workers (a class or dict), a Worker, or the ArqRedis that jobs are queued with, whose
    `enqueue_job` takes a `_traceparent` from then on. `redis_url` and `project` unset are RUNSTORE_REDIS_URL and
    RUNSTORE_PROJECT.

    Raises: InvalidRequest where one of them is told nowhere, or cannot be, or for something else.
    """
    if isinstance(app, Worker | ArqRedis):
        if app not in _installed:
            _join(app, Reporter(redis_url, project, config=config))
        return _installed[app]
    settings = app if isinstance(app, dict) else getattr(app, "__dict__", {})
    functions, cron_jobs = settings.get("functions"), settings.get("cron_jobs")  # as arq does: not the inherited ones
    if not functions and not cron_jobs:
        raise InvalidRequest(f"install takes a Worker, its settings or an ArqRedis, and {app!r:.60} has no functions")
    if not isinstance(functions, _Functions):
        functions = _Functions(functions or (), Reporter(redis_url, project, config=config))
        if isinstance(app, dict):
            app["functions"] = functions
        else:
            app.functions = functions
        _watch_workers()
    return functions.reporter


class _Functions(list[Any]):
    """The functions of settings: a Worker that is made with them has the hook."""

    def __init__(self, functions: Sequence[Any], reporter: Reporter) -> None:
        super().__init__(functions)
        self.reporter = reporter


@functools.cache
def _watch_workers() -> None:
    workers: Any = Worker
    init = workers.__init__

    @functools.wraps(init)
    def begin(self: Worker, functions: Any = (), **settings: Any) -> None:
        init(self, functions, **settings)
        if isinstance(functions, _Functions):
            _join(self, functions.reporter)

    workers.__init__ = begin


class _Work(msgspec.Struct, kw_only=True):
    """What a job's function did, as far as it has come."""

    attempt: int
    timeout_s: float | None
    returned: Any = None
    error: BaseException | None = None
    is_aborted: bool = False
    is_cancelled: bool = False
    """By arq, and not of its own will."""


class _Hook:
    """What one Worker does, told."""

    def __init__(self, worker: Any, reporter: Reporter) -> None:
        self._worker = worker
        self._reporter = reporter
        self._works: dict[str, _Work] = {}
        self._told: dict[str, Future[None]] = {}
        self._failures: dict[str, BaseException] = {}
        self._run_job, worker.run_job = worker.run_job, self._runs
        self._finish_job, worker.finish_job = worker.finish_job, self._finishes
        self._finish_failed_job, worker.finish_failed_job = worker.finish_failed_job, self._fails
        self._on_startup, worker.on_startup = worker.on_startup, self._starts
        worker.functions = {name: self._watched(function) for name, function in worker.functions.items()}
        worker.job_serializer = self._noting(carrying(worker.job_serializer))
        worker.job_deserializer = reading(worker.job_deserializer)

    async def _starts(self, ctx: dict[Any, Any]) -> None:
        if ctx["redis"] not in _installed:
            _join(ctx["redis"], self._reporter)  # it queues cron jobs, and what jobs queue
        if self._on_startup is not None:
            await self._on_startup(ctx)

    def _watched(self, function: Any) -> Any:
        work_on = function.coroutine
        own_s, workers_s = function.timeout_s, self._worker.job_timeout_s

        @functools.wraps(work_on)
        async def watched(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            job_id, attempt = ctx["job_id"], ctx["job_try"]
            work = _Work(attempt=attempt, timeout_s=workers_s if own_s is None else own_s)
            self._works[job_id] = work
            self._reporter.began(job_id, attempt=attempt, traceparent=carried_traceparent())
            try:
                work.returned = await work_on(ctx, *args, **kwargs)
            except BaseException as error:
                work.error = error
                work.is_aborted = job_id in self._worker.aborting_tasks
                work.is_cancelled = _is_cancelled(asyncio.current_task())
                raise
            return work.returned

        return replace(function, coroutine=watched)

    async def _runs(self, job_id: str, score: int) -> None:
        """Run a job, and wait for its end to be told when all is written that arq writes."""
        try:
            await self._run_job(job_id, score)
        finally:
            self._failures.pop(job_id, None)
            work = self._works.pop(job_id, None)
            if work is not None:  # arq itself came to grief, and runs the job again when nobody seems to be at it
                self._reporter.handed_on(job_id, f"attempt {work.attempt} was given up", attempt=work.attempt)
            told = self._told.pop(job_id, None)
            if told is not None:
                with contextlib.suppress(asyncio.CancelledError):  # the worker is stopped; this job is done
                    await self._reporter.settled(told)

    async def _finishes(self, job_id: str, finish: bool, *args: Any, **kwargs: Any) -> None:
        work = self._works.pop(job_id, None)
        if finish:
            self._told[job_id] = self._tell_end(job_id, work)
        elif work is not None:
            await self._reporter.settled(self._tell_retry(job_id, work))  # another worker may have it right after
        await self._finish_job(job_id, finish, *args, **kwargs)

    def _tell_end(self, job_id: str, work: _Work | None) -> Future[None]:
        reporter = self._reporter
        if work is None:
            return reporter.failed(job_id, self._failures.get(job_id, "it ended before it began"))
        error = work.error
        if error is None:
            error = self._failures.get(job_id)  # arq could not even show what was returned
        if error is None:
            return reporter.succeeded(job_id, work.returned, attempt=work.attempt)
        if not isinstance(error, asyncio.CancelledError) or not work.is_cancelled:
            return reporter.failed(job_id, error, attempt=work.attempt)
        if work.is_aborted:
            status, reason = Status.CANCELLED, "aborted"
        elif work.timeout_s is None or _is_cancelled(self._worker.tasks.get(job_id)):
            status, reason = Status.CANCELLED, "the worker was stopped"
        else:
            status, reason = Status.TIMED_OUT, f"TimeoutError: no end within {work.timeout_s:g} s"
        stderr = "".join(traceback.format_exception(error))
        return reporter.ended(job_id, status, reason, attempt=work.attempt, stderr=stderr)

    def _tell_retry(self, job_id: str, work: _Work) -> Future[None]:
        error = work.error
        if error is None or isinstance(error, asyncio.CancelledError):
            why = f"attempt {work.attempt} was cancelled; trying again"
            return self._reporter.handed_on(job_id, why, attempt=work.attempt)
        return self._reporter.will_retry(job_id, error.__cause__ or error.__context__ or error, attempt=work.attempt)

    async def _fails(self, job_id: str, *args: Any, **kwargs: Any) -> None:
        """Tell of a job that arq does not run: it expired, was aborted, was tried too often, is not known."""
        error = self._failures.get(job_id, "arq did not run it")
        if isinstance(error, asyncio.CancelledError):
            told = self._reporter.ended(job_id, Status.CANCELLED, "aborted before it began")
        elif isinstance(error, JobExecutionFailed) and _EXPIRED in error.args:
            told = self._reporter.ended(job_id, Status.TIMED_OUT, "it expired before a worker took it")
        else:
            told = self._reporter.failed(job_id, error, stderr="")
        self._told[job_id] = told
        await self._finish_failed_job(job_id, *args, **kwargs)

    def _noting(self, serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        """Take note of why a job failed in arq's own words, which only its result says."""

        def noting(data: Any) -> bytes:
            if isinstance(data, dict) and isinstance(error := data.get("r"), BaseException) and not data.get("s"):
                self._failures[str(data.get("id"))] = error
            return serialize(data)

        return noting


def _join(app: Worker | ArqRedis, reporter: Reporter) -> None:
    if isinstance(app, Worker):
        _Hook(app, reporter)
    else:
        join_pool(app, reporter)
    _installed[app] = reporter


def _is_cancelled(task: "asyncio.Task[Any] | None") -> bool:
    return task is not None and task.cancelling() > 0


_installed: Final["WeakKeyDictionary[Any, Reporter]"] = WeakKeyDictionary()
