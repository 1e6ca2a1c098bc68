"""Wait for runs without polling, claim them in turns of projects and each project's oldest first, and hold them."""

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec

from runstore.adapters.dispatch import ClaimRow, Place, RedisDispatch, Released, Signal, Standing
from runstore.adapters.store import RedisStore
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import Event
from runstore.core.ids import RunId, check_project_name
from runstore.core.lease import heartbeat_s
from runstore.core.status import Status
from runstore.dispatch.records import Claim, DispatchConfig, ServedProject
from runstore.wire.event import RequestJson, encode_event, read_request

_LOG: Final = logging.getLogger("runstore.dispatch")
_REQUEST: Final = msgspec.json.Decoder(RequestJson)
Queue = tuple[int, str]


class Dispatch:
    """A worker's way to the runs that were asked for. Made by `open`."""

    def __init__(self, store: RedisStore, config: DispatchConfig) -> None:
        self.config = config
        self.heartbeat_s = heartbeat_s(config.lease_ms)
        self._store = store
        self._redis = RedisDispatch(store)
        self._projects: dict[str, ServedProject] = {}
        self._queues: dict[Queue, int] = {}
        self._taken: dict[str, int] = {}
        self._turn = itertools.count(1)
        self._look_at: float = 0.0
        self._offered = asyncio.Event()
        self._news: dict[RunId, asyncio.Event] = {}
        self._deadlines: dict[RunId, float] = {}
        self._begun: set[RunId] = set()
        self._was_away = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, redis_url: str, config: DispatchConfig | None = None) -> AsyncIterator["Dispatch"]:
        """Hold a connection for the length of an `async with`.

        Raises: InvalidRequest for a URL that cannot be; StoreUnavailable.
        """
        config = config or DispatchConfig()
        async with RedisStore.open(redis_url, timeout_s=config.timeout_s) as store:
            dispatch = cls(store, config)
            dispatch._tasks = [
                asyncio.create_task(dispatch._listen_forever(), name="runstore-dispatch-listen"),
                asyncio.create_task(dispatch._register_forever(), name="runstore-dispatch-register"),
            ]
            try:
                yield dispatch
            finally:
                for task in dispatch._tasks:
                    task.cancel()
                await asyncio.wait(dispatch._tasks)

    async def register(self, projects: Iterable[ServedProject]) -> None:
        """Say which projects are served from now on; said again while this is open.

        Raises: InvalidRequest for a name that cannot be; StoreUnavailable, and then it is said later.
        """
        self._projects = {check_project_name(project.name): project for project in projects}
        self._look_at = 0.0
        self._offered.set()
        await self._store.served.register(self._projects)

    async def claim(self) -> Claim:
        """Wait for a run and take it; projects take turns, and a project's oldest run is first.

        Needs: room for a run.

        A Redis that is away is waited for. A run that was taken while this was cancelled goes back.
        """
        for failures in itertools.count():
            try:
                while True:
                    self._offered.clear()
                    if claim := await self._take():
                        return claim
                    await self._wait_for_an_offer()
            except StoreUnavailable as error:
                _LOG.warning("claim_put_off", extra={"reason": error.detail[:200]})
                await asyncio.sleep(self._backoff_s(failures))
        raise AssertionError("unreachable")

    async def begin(self, claim: Claim) -> Standing:
        """Say that the work is about to start: the attempt counts now, and the run's time runs. Start it only if HELD.

        Raises: StoreUnavailable.
        """
        deadline_s = claim.timeout_s + claim.project.grace_s + self.config.deadline_slack_s
        self._deadlines[claim.run_id] = asyncio.get_running_loop().time() + deadline_s
        standing = await self._redis.begin(
            claim.run_id, claim.token, lease_ms=self.config.lease_ms, deadline_ms=round(deadline_s * 1000)
        )
        if standing is Standing.HELD:
            self._begun.add(claim.run_id)
        return standing

    async def heartbeat(self, claim: Claim) -> Standing:
        """Renew the lease: HELD, CANCEL_ASKED (end the work and publish `cancelled`), or LOST (end it, say nothing).

        Raises: StoreUnavailable: then nobody took the run either; keep it and try again soon.
        """
        deadline = self._deadlines.get(claim.run_id)
        left_ms = None if deadline is None else round((deadline - asyncio.get_running_loop().time()) * 1000)
        lease_ms = self.config.lease_ms
        standing = await self._redis.heartbeat(claim.run_id, claim.token, lease_ms=lease_ms, left_ms=left_ms)
        if standing is Standing.LOST and claim.run_id in self._begun:
            return await self._regain(claim)
        return standing

    async def heard(self, claim: Claim, timeout_s: float) -> bool:
        """Wait until something about the run is to be looked at (by `heartbeat`); false where nothing was, in time."""
        news = self._news.setdefault(claim.run_id, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_s):
                await news.wait()
        except TimeoutError:
            return False
        news.clear()
        return True

    async def append_logs(self, claim: Claim, pieces: Sequence[tuple[str, bytes]]) -> None:
        """Append pieces of the run's `stdout` and `stderr`. Raises: StoreUnavailable."""
        await self._store.logs.append_logs(claim.run_id, pieces)

    async def release(self, claim: Claim) -> Released:
        """Give a run back whose work was ended here.

        REQUEUED: another attempt will be made. SPENT: none is left, so publish how it ended. CANCEL_ASKED: publish
        `cancelled`. LOST: say nothing.

        Raises: StoreUnavailable.
        """
        released = await self._redis.release(claim.run_id, claim.token, claim.project.name)
        if released in {Released.REQUEUED, Released.LOST}:
            self.forget(claim)
        return released

    async def finish(self, claim: Claim) -> None:
        """Let go of a run whose end was published and acknowledged. Raises: StoreUnavailable; that does no harm."""
        self.forget(claim)
        await self._redis.finish(claim.run_id, claim.token)
        await self._store.logs.end_logs(claim.run_id)

    def forget(self, claim: Claim) -> None:
        """Listen no longer to what is said about a run."""
        self._news.pop(claim.run_id, None)
        self._deadlines.pop(claim.run_id, None)
        self._begun.discard(claim.run_id)

    async def _regain(self, claim: Claim) -> Standing:
        """Hold a run on that the store lost: emptied, replaced, or restored from a time before it began."""
        project = claim.project
        regained = await self._redis.regain(
            claim.run_id,
            claim.token,
            worker=self.config.name,
            project=project.name,
            attempt=claim.attempt,
            attempts=project.attempts,
            lease_ms=self.config.lease_ms,
        )
        if regained.standing is Standing.LOST:
            return Standing.LOST
        _LOG.warning("lease_regained", extra={"run_id": claim.run_id, "attempt": claim.attempt})
        if not regained.run_is_known:
            await self._store.log.append(claim.run_id, encode_event(self._event(claim, project, Status.RUNNING)))
        return Standing.HELD

    async def _wait_for_an_offer(self) -> None:
        left_s = self._look_at - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self._offered.wait()
        except TimeoutError:
            pass

    async def _take(self) -> Claim | None:
        clock = asyncio.get_running_loop().time
        if clock() >= self._look_at:
            self._look_at = clock() + self.config.recheck_s
            self._queues.update(await self._waiting())
        while self._queues:
            queue = min(self._queues, key=lambda each: (self._taken.get(each[1], 0), self._queues[each]))
            head_ms = self._queues.pop(queue)
            if queue[1] not in self._projects:
                continue
            row = await self._claim_surely(queue, head_ms)
            if row is None:
                continue
            if row.next_ms is not None:
                self._queues[queue] = row.next_ms
            self._taken[queue[1]] = next(self._turn)
            if claim := await self._claim_of(row, self._projects[queue[1]]):
                return claim
        return None

    async def _waiting(self) -> dict[Queue, int]:
        try:
            return await self._redis.waiting(list(self._projects))
        except BaseException:
            self._look_at = 0.0
            raise

    async def _claim_surely(self, queue: Queue, head_ms: int) -> ClaimRow | None:
        """Claim, and where the caller is cancelled meanwhile let no run be held by nobody."""
        task = asyncio.ensure_future(self._claim_once(queue))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=2 * self.config.timeout_s)
            if task.done() and not task.cancelled() and task.exception() is None and (row := task.result()):
                with suppress(StoreUnavailable):
                    await self._redis.release(row.run_id, row.token, queue[1])
            raise
        except StoreUnavailable:
            self._queues[queue] = head_ms
            raise

    async def _claim_once(self, queue: Queue) -> ClaimRow | None:
        partition, name = queue
        project = self._projects[name]
        return await self._redis.claim(
            partition,
            name,
            worker=self.config.name,
            attempts=project.attempts,
            lease_ms=self.config.lease_ms,
            deadline_ms=round(self._claim_s(project) * 1000),
        )

    def _claim_s(self, project: ServedProject) -> float:
        return project.timeout_s + project.grace_s + self.config.prepare_s

    async def _claim_of(self, row: ClaimRow, project: ServedProject) -> Claim | None:
        try:
            told = _REQUEST.decode(row.request)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            await self._refuse(row, project)
            return None
        request = read_request(told)
        self._news[row.run_id] = asyncio.Event()
        self._deadlines[row.run_id] = asyncio.get_running_loop().time() + self._claim_s(project)
        return Claim(run_id=row.run_id, project=project, request=request, attempt=row.attempt, token=row.token)

    async def _refuse(self, row: ClaimRow, project: ServedProject) -> None:
        event = self._event(
            row, project, Status.FAILED, "what was asked for cannot be read any more: ask for a new run"
        )
        _LOG.error("request_unreadable", extra={"run_id": row.run_id})
        await self._store.log.append(row.run_id, encode_event(event))

    def _event(self, row: ClaimRow | Claim, project: ServedProject, status: Status, why: str | None = None) -> Event:
        return Event(
            run_id=row.run_id,
            status=status,
            project_name=project.name,
            attempt=row.attempt,
            error_message=why,
            worker=self.config.name,
        )

    async def _listen_forever(self) -> None:
        for failures in itertools.count():
            try:
                places = await self._redis.ends()
                self._begin_to_listen()
                if failures:
                    self._was_away.set()
                while True:
                    await self._listen(places)
            except RunstoreError as error:
                _LOG.warning("signals_not_heard", extra={"reason": error.detail[:200]})
            except Exception:  # noqa: BLE001 - whatever it was, a worker that hears nothing would look alive
                _LOG.exception("signals_not_heard")
            await asyncio.sleep(self._backoff_s(failures))

    def _begin_to_listen(self) -> None:
        """Whatever was said before is not heard any more: look at everything."""
        self._look_at = 0.0
        self._offered.set()
        for news in self._news.values():
            news.set()

    async def _listen(self, places: dict[bytes, Place]) -> None:
        for signal in await self._redis.listen(places, self.config.block_ms):
            self._hear(signal)

    def _hear(self, signal: Signal) -> None:
        if signal.project is None:
            if news := self._news.get(signal.run_id):
                news.set()
        elif signal.project in self._projects:
            self._queues.setdefault((signal.partition, signal.project), signal.at_ms)
            self._offered.set()

    async def _register_forever(self) -> None:
        pause_s = self.config.register_every_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._was_away.wait()
            self._was_away.clear()
            try:
                await self._store.served.register(self._projects)
                pause_s = self.config.register_every_s
            except StoreUnavailable as error:
                pause_s = min(self.config.max_backoff_s, self.config.register_every_s)
                _LOG.warning("not_registered", extra={"reason": error.detail[:200]})

    def _backoff_s(self, failures: int) -> float:
        most = min(self.config.max_backoff_s, 0.05 * 2.0 ** min(failures, 10))
        return random.uniform(most / 2, most)  # noqa: S311 - spreads load only
