"""The asynchronous publisher: events into the log or, while the store is away, into the spool."""

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self, Unpack

import msgspec

from runstore.background import NoThread
from runstore.core.errors import InvalidRequest, StoreUnavailable
from runstore.core.event import Event
from runstore.core.ids import RunId, check_project_name
from runstore.core.status import Status
from runstore.publish.adoption import Adoption
from runstore.publish.config import PublisherConfig
from runstore.publish.courier import Courier
from runstore.publish.delivery import Delivery
from runstore.publish.event import Told, make_event
from runstore.publish.held import HeldStore
from runstore.publish.spools import abandoned, spool_for
from runstore.publish.track import AsyncTrack, TrackOptions
from runstore.publish.tracked import Asked, TrackedRun
from runstore.telemetry import current_traceparent

_LOG: Final = logging.getLogger("runstore.publish")


class PublishedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is safe, and its place: `get_run(…, after=cursor)` never answers from before it.

    `cursor` is None where the event went into the spool, since the store was away: it is sent when that is back.
    """

    run_id: RunId
    event_id: str
    cursor: str | None = None


class AsyncPublisher:
    """Publish what becomes of runs straight into Redis.

    `redis_url` and `project` unset are RUNSTORE_REDIS_URL and RUNSTORE_PROJECT. Made in any place; nothing is opened
    before the first event, so that a Redis that is away stops no work from beginning.
    """

    def __init__(
        self, redis_url: str | None = None, project: str | None = None, *, config: PublisherConfig | None = None
    ) -> None:
        url = redis_url or os.environ.get("RUNSTORE_REDIS_URL")
        if not url:
            raise InvalidRequest("give the address of Redis, such as redis://127.0.0.1:6379, or set RUNSTORE_REDIS_URL")
        named = project or os.environ.get("RUNSTORE_PROJECT") or None
        self.project = check_project_name(named) if named is not None else None
        self.config = config or PublisherConfig()
        # now and not with the first event: a program that is about to end cannot import anything more, and a child that
        # is forked while another thread imports would wait for that thread for ever
        import runstore.adapters.store  # noqa: F401
        from runstore.publish.leases import Leases

        self._make_leases = partial(Leases, url, self.config)
        self._held = HeldStore(url, self.config)
        self._spool = spool_for(url, self.config)
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._courier: Courier | None = None
        self._leases: Leases | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._entered_by = 0
        self._closed = False

    async def publish(
        self,
        run_id: str,
        status: Status | str,
        *,
        acknowledged_within_s: float | None = None,
        **told: Unpack[Told],
    ) -> PublishedEvent:
        """Publish one event, and return when it is safe.

        That is when the store has acknowledged it as `config.durability` says or, while the store is away, when it is
        on this machine's disk, from where it is sent later. With `acknowledged_within_s` the disk is not enough: it
        waits so long for the store itself.

        Raises: InvalidRequest, InvalidRunId, PayloadTooLarge before anything is sent; StoreUnavailable where neither
        took it, or the store did not acknowledge it in the time that was given. Even then it may be recorded, or will
        be; to publish it again does no harm.
        """
        if told.get("project_name") is None and self.project is not None:
            told["project_name"] = self.project
        if told.get("traceparent") is None:
            told["traceparent"] = current_traceparent()
        published = await self.send(make_event(run_id, status, told))
        if acknowledged_within_s is not None and published.cursor is None:
            await self.flush(acknowledged_within_s)
        return published

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
    ) -> AsyncTrack:
        """Publish what becomes of some work: `async with publisher.track(…) as run`, or as a decorator of `async def`.

        It is `running` at once and `success` at its end, with what was put into `run.outputs`, `run.stdout` and
        `run.stderr`. Where the work raises, it is `timed_out` for a TimeoutError, `cancelled` for a cancellation or
        Ctrl-C, else `failed` with a one-line reason and the traceback in stderr; the error goes on as it was. A
        decorated function gives its outputs by what it returns, as it is, or where that is None through
        `current_run()`; each call is a run of its own. A store that is away is logged, and stops no work.

        Raises: InvalidRequest, InvalidRunId, before the work begins.
        """
        options = TrackOptions(
            project_name=check_project_name(self.project_of(project)),
            run_id=run_id,
            commit_sha=commit_sha,
            tags=tuple(tags),
            attempt=attempt,
            worker=worker,
            traceparent=traceparent,
        )
        return AsyncTrack(self, options)

    async def send(self, event: Event) -> PublishedEvent:
        """Send a ready event, and return when it is safe. Events go in the order in which they are sent.

        Raises: StoreUnavailable where neither the store nor the spool took it.
        """
        cursor = await self._courier_here().take(event)
        return PublishedEvent(run_id=event.run_id, event_id=event.event_id or "", cursor=cursor)

    async def flush(self, timeout_s: float | None = None) -> None:
        """Wait until the store has acknowledged all that was published, what is in the spool included.

        Raises: StoreUnavailable where it has not within `timeout_s` (unset: `config.timeout_s`).
        """
        await self._courier_here().flush(self.config.timeout_s if timeout_s is None else timeout_s)

    async def deliver_abandoned(self) -> bool:
        """Send what processes that have ended left in their spools on this machine; false where some could not be sent.

        A publisher does so by itself, now and then, while it publishes.
        """
        return await self._courier_here().adoption.deliver_all()

    def hold(self, run: TrackedRun, attempt: int) -> Asked | None:
        """Hold a tracked run by a lease from now on, and return at once; where that cannot be, it is logged.

        The event that begins the run is to carry what is returned. Where the run is cancelled, it is told so when the
        lease is next renewed.
        """
        if self._closed:
            return None
        if self._leases is None or self._leases.is_foreign:
            self._leases = self._make_leases()
        try:
            return self._leases.hold(run, attempt)
        except NoThread as error:
            _LOG.warning("run_not_held", extra={"run_id": run.run_id, "reason": str(error)})
            return None

    def ending(self, run_id: RunId) -> None:
        """Hold a run on while its end is told, but tell its work of no cancel any more."""
        if self._leases is not None and not self._leases.is_foreign:
            self._leases.ending(run_id)

    async def let_go(self, run_id: RunId, *, drop: bool) -> None:
        """Hold a run no longer; with `drop` its lease ends now, else with the run."""
        if self._leases is not None and not self._leases.is_foreign:
            await self._leases.let_go(run_id, drop=drop)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Let `close` wait for a task."""
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Send what is left, for a bounded time, spool the rest, and close all connections. May be called twice."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=self.config.timeout_s)
        self._closed = True
        if self._courier is not None and self._home == _here():
            await self._courier.close()
        self._spool.close()
        if self._leases is not None and not self._leases.is_foreign:
            await self._leases.close()
            self._leases = None
        await self._held.aclose()

    async def __aenter__(self) -> Self:
        self._entered_by = os.getpid()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() == self._entered_by:  # and not in a forked child that leaves the block
            await self.close()

    def project_of(self, project: str | None) -> str:
        """Return the project of a run: the one that is named, else the publisher's own.

        Raises: InvalidRequest where there is neither.
        """
        named = project or self.project
        if named is None:
            raise InvalidRequest(
                "name the project: track('forecasts'), AsyncPublisher(…, 'forecasts'), or RUNSTORE_PROJECT"
            )
        return named

    def _courier_here(self) -> Courier:
        """Return the courier of this loop of this process.

        Raises: StoreUnavailable where the publisher was closed.
        """
        if self._closed:
            raise StoreUnavailable("the publisher was closed")
        home = _here()
        if self._courier is None or home != self._home:
            if self._home is not None and self._home[0] == home[0] and self._home[1].is_running():
                raise InvalidRequest(
                    "it is at work in another event loop: make an AsyncPublisher for each, or a Publisher"
                )
            delivery = Delivery(self._held, self.config)
            adoption = Adoption(partial(abandoned, self._spool.folder), delivery)
            self._home, self._courier = home, Courier(delivery, self._spool, adoption, self.config)
            self._under_way = set()
            self._courier.begin()
        return self._courier


def _here() -> tuple[int, asyncio.AbstractEventLoop]:
    return os.getpid(), asyncio.get_running_loop()
