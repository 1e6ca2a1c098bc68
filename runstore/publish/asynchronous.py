"""The asynchronous publisher: events into the log, each acknowledged before `publish` returns."""

import asyncio
import itertools
import logging
import os
import random
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import msgspec

from runstore.core.errors import InvalidRequest, StoreUnavailable
from runstore.core.event import Event
from runstore.core.ids import RunId, check_project_name
from runstore.core.status import Status
from runstore.publish.config import PublisherConfig
from runstore.publish.event import Told, make_event
from runstore.publish.held import HeldStore
from runstore.publish.track import AsyncTrack, TrackOptions
from runstore.wire.event import encode_event

_LOG = logging.getLogger("runstore.publish")
_BYTES_A_SECOND = 4 * 1024 * 1024


class PublishedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was acknowledged, and its place: `get_run(…, after=cursor)` never answers from before it."""

    run_id: RunId
    event_id: str
    cursor: str


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
        self._held = HeldStore(url, self.config)
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False

    async def publish(self, run_id: str, status: Status | str, **told: Unpack[Told]) -> PublishedEvent:
        """Publish one event, and return when it is acknowledged as `config.durability` says.

        It is tried again while the store is away, for a bounded time: a repeat of an event changes nothing.

        Raises: InvalidRequest, InvalidRunId, PayloadTooLarge before anything is sent; StoreUnavailable, and then the
        event may have been recorded all the same.
        """
        if told.get("project_name") is None and self.project is not None:
            told["project_name"] = self.project
        return await self.send(make_event(run_id, status, told))

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
        decorated function gives its outputs by what it returns (a mapping as it is, else under the key `result`) or
        through `current_run()`; each call is a run of its own. A store that is away is logged, and stops no work.

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
        """Send a ready event, and return when it is acknowledged.

        This is the one place where an event meets the store, and the one where StoreUnavailable leaves: a spool that
        keeps events while the store is away belongs here.

        Raises: StoreUnavailable.
        """
        if self._closed:
            raise StoreUnavailable("the publisher was closed")
        size = len(event.output or b"")
        try:
            async with asyncio.timeout(self.config.timeout_s + size / _BYTES_A_SECOND) as limit:
                return await self._send_until_acknowledged(event)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreUnavailable(
                f"no acknowledgement within {self.config.timeout_s:g} s; a repeat of the event does no harm"
            ) from None

    def keep(self, task: asyncio.Task[None]) -> None:
        """Let `close` wait for a task."""
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Wait for what is under way, for a bounded time, and close all connections. May be called twice."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=self.config.timeout_s)
        self._closed = True
        await self._held.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    async def _send_until_acknowledged(self, event: Event) -> PublishedEvent:
        for attempt in itertools.count():
            try:
                ready = await self._held.ready(event.run_id)
                if event.output is not None and len(event.output) > self.config.inline_output_bytes:
                    ref = await ready.store.outputs.write(event.run_id, event.output)
                    event = msgspec.structs.replace(event, output=None, output_ref=ref)
                entry_id = await ready.store.log.append(event.run_id, encode_event(event))
                cursor = ready.cursor(entry_id)
                return PublishedEvent(run_id=event.run_id, event_id=event.event_id or "", cursor=cursor)
            except StoreUnavailable as error:
                self._held.doubt()
                _LOG.warning(
                    "publish_put_off", extra={"run_id": event.run_id, "attempt": attempt, "reason": error.detail[:200]}
                )
                longest = min(self.config.max_backoff_s, self.config.backoff_s * 2 ** min(attempt, 20))
                await asyncio.sleep(random.uniform(0.01, max(0.02, longest)))  # noqa: S311 - spreads load only
        raise AssertionError("unreachable")
