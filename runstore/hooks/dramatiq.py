"""The hook for Dramatiq: `install(broker)`, where the broker is made, for those who send and for the workers alike.

A message is a run. Two middlewares share what is to be seen of it, since Dramatiq calls what comes after a message in
the reverse order of what comes before it: one at the head hears last how a message ended, when Retries and the others
have spoken; one at the tail hears last that it is about to be processed, when it can hardly be skipped any more.

A retry is a message that failed here and is queued again. Nothing else can tell: `max_retries`, `retry_when`, `throws`
and middlewares of anybody's own decide it, and a broker that is away may keep it from coming. It is told before the
message is queued, since another worker may have it right after.
"""

import threading
import traceback
from typing import Any, Final

import msgspec
from dramatiq import Broker, Message, MessageProxy, Middleware
from dramatiq.middleware import AgeLimit, Interrupt, TimeLimitExceeded

from runstore.core.status import Status
from runstore.hooks.reporter import Reporter
from runstore.hooks.trace import traceparent_here
from runstore.publish import PublisherConfig
from runstore.publish.tracked import reason_of

_QUEUED: Final = "runstore"
"""The option of a message that counts how often it was queued: a delay and a retry queue it again."""
_TRACEPARENT: Final = "traceparent"


def install(
    broker: Broker,
    *,
    redis_url: str | None = None,
    project: str | None = None,
    config: PublisherConfig | None = None,
) -> Reporter:
    """Publish what becomes of every message of a broker, and return what publishes it. A second call changes nothing.

    `redis_url` and `project` unset are RUNSTORE_REDIS_URL and RUNSTORE_PROJECT.

    Raises: InvalidRequest where one of them is told nowhere, or cannot be.
    """
    for middleware in broker.middleware:
        if isinstance(middleware, _Ends):
            return middleware.reporter
    reporter = Reporter(redis_url, project, config=config)
    here = _Here()
    head = type(broker.middleware[0]) if broker.middleware else None
    broker.add_middleware(_Ends(reporter, here), before=head)
    broker.add_middleware(_Begins(reporter, here))
    return reporter


class _Work(msgspec.Struct, kw_only=True):
    message_id: str
    attempt: int
    failure: BaseException | None = None
    is_queued_again: bool = False


class _Here(threading.local):
    """What this thread works on."""

    work: _Work | None = None


class _Begins(Middleware):
    def __init__(self, reporter: Reporter, here: _Here) -> None:
        self._reporter = reporter
        self._here = here

    def before_enqueue(self, broker: Broker, message: "Message[Any]", delay: int | None) -> None:
        work = self._here.work
        if work is not None and work.message_id == message.message_id and work.failure is not None:
            told = self._reporter.will_retry(work.message_id, work.failure, attempt=work.attempt)
            self._reporter.settle(told)
        message.options[_QUEUED] = message.options.get(_QUEUED, 0) + 1
        traceparent = traceparent_here()
        if traceparent is not None:
            message.options.setdefault(_TRACEPARENT, traceparent)

    def after_enqueue(self, broker: Broker, message: "Message[Any]", delay: int | None) -> None:
        work = self._here.work
        if work is not None and work.message_id == message.message_id:
            work.is_queued_again = work.failure is not None
        elif message.options.get(_QUEUED) == 1:
            self._reporter.queued(message.message_id, traceparent=_traceparent_of(message))

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        attempt = int(message.options.get("retries") or 0) + 1
        self._here.work = _Work(message_id=message.message_id, attempt=attempt)
        if not message.failed:
            self._reporter.began(message.message_id, attempt=attempt, traceparent=_traceparent_of(message))

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Take note of a failure before Retries hears of it."""
        if self._here.work is not None:
            self._here.work.failure = exception


class _Ends(Middleware):
    def __init__(self, reporter: Reporter, here: _Here) -> None:
        self.reporter = reporter
        self._here = here

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        work, self._here.work = self._here.work, None
        if work is not None and work.is_queued_again:
            return
        attempt = work.attempt if work is not None else None
        reporter, message_id = self.reporter, message.message_id
        if exception is None and message.failed:
            told = reporter.ended(message_id, Status.CANCELLED, "rejected by a middleware", attempt=attempt)
        elif exception is None:
            told = reporter.succeeded(message_id, result, attempt=attempt)
        elif isinstance(exception, Interrupt):
            status = Status.TIMED_OUT if isinstance(exception, TimeLimitExceeded) else Status.CANCELLED
            stderr = "".join(traceback.format_exception(exception))
            told = reporter.ended(message_id, status, reason_of(exception), attempt=attempt, stderr=stderr)
        else:
            told = reporter.failed(message_id, exception, attempt=attempt)
        reporter.settle(told)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self._here.work = None
        if message.failed and _is_too_old(broker, message):
            told = self.reporter.ended(message.message_id, Status.TIMED_OUT, "message age limit exceeded")
        else:
            told = self.reporter.ended(message.message_id, Status.CANCELLED, "skipped by a middleware")
        self.reporter.settle(told)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Tell of what no worker can process; what one did process was told of before it was rejected."""
        if message.actor_name not in broker.actors:
            reason = f"ActorNotFound: {message.actor_name}"
            self.reporter.settle(self.reporter.failed(message.message_id, reason))


def _traceparent_of(message: "Message[Any] | MessageProxy") -> str | None:
    told = message.options.get(_TRACEPARENT)
    return told if isinstance(told, str) else None


def _is_too_old(broker: Broker, message: MessageProxy) -> bool:
    """Whether it was AgeLimit, by what AgeLimit itself goes by, that skipped a message."""
    options = broker.get_actor(message.actor_name).options
    limits = (middleware.max_age for middleware in broker.middleware if isinstance(middleware, AgeLimit))
    return bool(message.options.get("max_age") or options.get("max_age", next(limits, None)))
