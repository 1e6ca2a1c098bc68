"""The blocking publisher: the asynchronous one in a thread of its own, and anew in a forked child."""

import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import Token
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar, Unpack

from runstore.background import Background
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import check_project_name
from runstore.core.status import Status
from runstore.publish.asynchronous import AsyncPublisher, PublishedEvent
from runstore.publish.config import PublisherConfig
from runstore.publish.event import Told
from runstore.publish.track import Story, TrackOptions, enter, keep_returned, leave
from runstore.publish.tracked import TrackedRun, ending_of
from runstore.telemetry import current_traceparent

_LOG = logging.getLogger("runstore.publish")
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Publisher:
    """AsyncPublisher for programs without an event loop, with the same calls, arguments and errors.

    Several threads may use one. A child made by fork opens a connection of its own.
    """

    def __init__(
        self, redis_url: str | None = None, project: str | None = None, *, config: PublisherConfig | None = None
    ) -> None:
        self._told = (redis_url, project, config)
        self._publisher = AsyncPublisher(redis_url, project, config=config)
        self._background = Background("runstore-publisher", self._publisher.close)
        self._closed = False
        self.renew_lock()
        _all.add(self)

    @property
    def project(self) -> str | None:
        """The project of events that name none."""
        return self._publisher.project

    def publish(
        self,
        run_id: str,
        status: Status | str,
        *,
        acknowledged_within_s: float | None = None,
        **told: Unpack[Told],
    ) -> PublishedEvent:
        """Publish one event: see `AsyncPublisher.publish`."""
        publisher, background = self.here()
        if told.get("traceparent") is None:
            told["traceparent"] = current_traceparent()  # here: the thread that publishes knows of no span
        return background.run(publisher.publish(run_id, status, acknowledged_within_s=acknowledged_within_s, **told))

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until the store has acknowledged all that was published: see `AsyncPublisher.flush`."""
        publisher, background = self.here()
        background.run(publisher.flush(timeout_s))

    def track(
        self,
        project: str | None = None,
        *,
        run_id: str | None = None,
        commit_sha: str | None = None,
        tags: Sequence[str] = (),
        attempt: int | None = None,
        worker: str | None = None,
        traceparent: str | None = None,
    ) -> "Track":
        """Publish what becomes of some work, with `with` or as a decorator of `def`: see `AsyncPublisher.track`."""
        options = TrackOptions(
            project_name=check_project_name(self._publisher.project_of(project)),
            run_id=run_id,
            commit_sha=commit_sha,
            tags=tuple(tags),
            attempt=attempt,
            worker=worker,
            traceparent=traceparent,
        )
        return Track(self, options)

    def project_of(self, project: str | None) -> str:
        """Return the project of a run: see `AsyncPublisher.project_of`."""
        return self._publisher.project_of(project)

    def close(self) -> None:
        """Wait for what is under way, for a bounded time, and close all connections. May be called twice."""
        self._closed = True
        self._background.stop()

    def here(self) -> tuple[AsyncPublisher, Background]:
        """Return the publisher and the thread of this process.

        Raises: StoreUnavailable where it was closed.
        """
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the publisher was closed")
            if self._background.is_foreign or self._background.is_over:
                url, project, config = self._told
                is_first = not self._background.is_over
                self._publisher = AsyncPublisher(url, project, config=config)
                self._background = Background("runstore-publisher", self._publisher.close, ends_with_process=is_first)
            return self._publisher, self._background

    def renew_lock(self) -> None:
        """Have a lock of our own, also where another thread held it when this process was forked."""
        self._lock = threading.RLock()  # a signal's handler may come in between, in the same thread

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _renew_locks() -> None:
    for publisher in list(_all):
        publisher.renew_lock()


_all: Final["weakref.WeakSet[Publisher]"] = weakref.WeakSet()
os.register_at_fork(after_in_child=_renew_locks)


class Track:
    """Tracking as a context manager, once, or as a decorator, for every call."""

    def __init__(self, publisher: Publisher, options: TrackOptions) -> None:
        self._publisher = publisher
        self._options = options
        self._story: Story | None = None
        self._background: Background | None = None
        self._token: Token[TrackedRun | None] | None = None
        Story(publisher.here()[0], options)

    def __enter__(self) -> TrackedRun:
        if self._story is not None:
            raise RuntimeError("a tracking is entered once: call track() again for another run")
        publisher, self._background = self._publisher.here()
        self._story = Story(publisher, self._options)
        try:
            self._background.run(self._story.begin())
        except BaseException as error:
            if not isinstance(error, Exception):  # a Ctrl-C: it may have begun, and will not come to its end
                self._finish(error)
            raise
        self._token = enter(self._story.run)
        return self._story.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave(self._token)
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        assert self._story is not None
        assert self._background is not None
        if self._background.is_foreign:
            return  # a forked child that leaves the block: the end is its parent's to tell
        try:
            self._background.run(self._story.finish(ending_of(error)))
        except Exception:  # noqa: BLE001 - the work's own error must not be masked by ours
            _LOG.exception("end_not_published", extra={"run_id": self._story.run.run_id})

    def __call__(self, work: Callable[_P, _T]) -> Callable[_P, _T]:
        """Decorate a function, so that each call is a run.

        Raises: TypeError for an async function or a generator.
        """
        if inspect.iscoroutinefunction(work) or inspect.isgeneratorfunction(work) or inspect.isasyncgenfunction(work):
            raise TypeError("this publisher tracks plain functions: use AsyncPublisher for async ones")

        @functools.wraps(work)
        def tracked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with Track(self._publisher, self._options) as run:
                returned = work(*args, **kwargs)
                keep_returned(run, returned)
                return returned

        return tracked
