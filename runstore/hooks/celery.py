"""The hook for Celery: `install(app)`, in the module that makes the app, so that workers and clients both have it.

It listens to Celery's signals. Those of the work itself are heard in the process that works, which may be killed at any
line: there the end is waited for. Those of hard time limits, revokes and lost processes are heard in the worker's main
process, which must not wait, and has no need to, since it lives on.
"""

import functools
import sys
import traceback
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from celery import Celery, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TimeLimitExceeded

from runstore.core.status import Status
from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here
from runstore.publish import PublisherConfig

_REPLACED: Final = "Replaced by new task"
"""What `Task.replace` raises Ignore with; the new task has the id of the one that it replaces."""


def install(
    app: Celery, *, redis_url: str | None = None, project: str | None = None, config: PublisherConfig | None = None
) -> "CeleryHook":
    """Publish what becomes of an app's tasks. To install again changes nothing, and gives the same hook.

    Raises: InvalidRequest where the address of Redis or the project is told neither here nor by the environment.
    """
    hook = _installed.get(app)
    if hook is None:
        hook = _installed[app] = CeleryHook(app, Reporter(redis_url, project, config=config))
    return hook


class CeleryHook:
    """What listens to an app's signals, until it is closed."""

    def __init__(self, app: Celery, reporter: Reporter) -> None:
        self._app = ref(app)
        self._reporter = reporter
        self._uid = f"runstore:{id(self)}"  # without it, Celery 5.4 takes the listeners of two hooks for the same
        self._attempts: dict[str, int] = {}
        self._heard = (
            (signals.before_task_publish, self._before_publish),
            (signals.after_task_publish, self._after_publish),
            (signals.task_prerun, self._begins),
            (signals.task_postrun, self._leaves),
            (signals.task_success, self._succeeds),
            (signals.task_retry, self._retries),
            (signals.task_failure, self._fails),
            (signals.task_internal_error, self._fails),
            (signals.task_revoked, self._is_revoked),
            (signals.task_unknown, self._is_unknown),
        )
        for signal, listener in self._heard:
            signal.connect(listener, weak=False, dispatch_uid=self._uid)
        self._mark(app)

    def close(self) -> None:
        """Listen no more, and send what is still to be sent; may be called twice."""
        for signal, _ in self._heard:
            signal.disconnect(dispatch_uid=self._uid)
        if (app := self._app()) is not None and _installed.pop(app, None) is not None:
            del app.send_task  # what was put before the class's own
        self._reporter.close()

    def _mark(self, app: Celery) -> None:
        """Let the signals of publishing, which do not say whose they are, be known for this app's."""
        send_task = app.send_task

        @functools.wraps(send_task)
        def send_marked_task(*args: Any, **kwargs: Any) -> Any:
            token = _publishing.set(self)
            try:
                return send_task(*args, **kwargs)
            finally:
                _publishing.reset(token)

        app.send_task = send_marked_task

    def _before_publish(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        if headers is None or not self._publishes() or headers.get("traceparent"):
            return
        traceparent = traceparent_here()
        if traceparent is not None:
            headers["traceparent"] = traceparent

    def _after_publish(self, headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
        told = headers if headers and "id" in headers else body
        if not isinstance(told, dict) or not self._publishes():
            return
        task_id = str(told["id"])
        if not told.get("retries") and task_id not in self._attempts:  # else it runs: this is a retry, or replaces it
            self._reporter.queued(task_id, traceparent=_text(told.get("traceparent")))

    def _begins(self, sender: Any, task_id: str, **_: Any) -> None:
        if self._is_ours(sender):
            attempt = self._attempts[task_id] = _attempt_of(sender.request)
            traceparent = _text((sender.request.headers or {}).get("traceparent"))
            self._reporter.began(task_id, attempt=attempt, traceparent=traceparent)

    def _succeeds(self, sender: Any, result: Any = None, **_: Any) -> None:
        if self._is_ours(sender):
            request = sender.request
            self._reporter.settle(self._reporter.succeeded(request.id, result, attempt=_attempt_of(request)))

    def _retries(self, sender: Any, request: Any, reason: Any = None, **_: Any) -> None:
        if self._is_ours(sender):
            error = getattr(reason, "exc", None) or str(reason or "the connection to the broker was lost")
            told = self._reporter.will_retry(request.id, error, attempt=_attempt_of(request))
            if request.id in self._attempts:
                self._reporter.settle(told)

    def _fails(self, sender: Any, task_id: str, exception: BaseException, einfo: Any = None, **_: Any) -> None:
        if not self._is_ours(sender):
            return
        attempt = self._attempts.get(task_id)
        if attempt is None:
            self._end_from_afar(sender, task_id, exception)
            return
        # Celery makes another of an error that cannot be pickled; the one that was raised is still being handled
        error = sys.exc_info()[1] or exception
        if isinstance(error, SoftTimeLimitExceeded):
            stderr = "".join(traceback.format_exception(error))
            reason = _limit(error, (sender.request.timelimit or (None, None))[1] or sender.soft_time_limit)
            told = self._reporter.ended(task_id, Status.TIMED_OUT, reason, attempt=attempt, stderr=stderr)
        else:
            told = self._reporter.failed(task_id, error, attempt=attempt)
        self._reporter.settle(told)

    def _end_from_afar(self, task: Any, task_id: str, error: BaseException) -> None:
        """Tell the end of a task whose process did not live to tell it."""
        if isinstance(error, TimeLimitExceeded):
            reason = _limit(error, error.args[0] if error.args else task.time_limit)
            self._reporter.ended(task_id, Status.TIMED_OUT, reason)
        else:
            self._reporter.failed(task_id, error)

    def _leaves(self, sender: Any, task_id: str, retval: Any = None, **_: Any) -> None:
        if not self._is_ours(sender):
            return
        attempt = self._attempts.pop(task_id, None)
        if isinstance(retval, Reject) and retval.requeue and sender.acks_late:
            told = self._reporter.handed_on(task_id, "put back into the queue", attempt=attempt)
        elif isinstance(retval, Reject):
            told = self._reporter.failed(task_id, f"Reject: {retval.reason}", attempt=attempt)
        elif isinstance(retval, Ignore) and _REPLACED in retval.args:
            told = self._reporter.handed_on(task_id, "replaced by another task", attempt=attempt)
        elif isinstance(retval, Ignore):
            told = self._reporter.ended(task_id, Status.CANCELLED, f"Ignore: {retval}".rstrip(": "), attempt=attempt)
        else:  # its end was told, or the main process tells it
            return
        self._reporter.settle(told)

    def _is_revoked(self, sender: Any, request: Any, terminated: Any = None, expired: Any = None, **_: Any) -> None:
        if self._is_ours(sender):
            if expired:
                self._reporter.ended(request.id, Status.TIMED_OUT, "it expired before a worker took it")
            else:
                reason = "revoked while it ran" if terminated else "revoked"
                self._reporter.ended(request.id, Status.CANCELLED, reason)

    def _is_unknown(self, sender: Any, name: str, id: str, **_: Any) -> None:  # noqa: A002 - Celery's name for it
        if sender.app is self._app():
            self._reporter.failed(id, f"NotRegistered: no worker knows the task {name!r}")

    def _is_ours(self, task: Any) -> bool:
        return task.app is self._app()

    def _publishes(self) -> bool:
        return _publishing.get() is self


_publishing: ContextVar["CeleryHook | None"] = ContextVar("runstore_celery_publishing", default=None)
_installed: Final["WeakKeyDictionary[Celery, CeleryHook]"] = WeakKeyDictionary()


def _attempt_of(request: Any) -> int:
    return int(request.retries or 0) + 1


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _limit(error: BaseException, seconds: object) -> str:
    within = f"within {seconds:g} s" if isinstance(seconds, int | float) else "in time"
    return f"{type(error).__name__}: no end {within}"
