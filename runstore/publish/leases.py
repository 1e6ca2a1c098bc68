"""Hold the runs that a process tracks, by heartbeats from a thread of its own, so that its sudden end is noticed.

The thread is not the work's: neither a loop that computes nor a call that blocks makes a healthy run look lost. A lease
is taken once and then renewed. One that is gone is taken again only where nobody else has the run and it has not ended:
the store was emptied, say, or came back without its latest.

A run is held until its end is acknowledged or spooled. Where neither can be had, nobody renews its lease any more, and
the reaper ends the run.

The same heartbeats notice that a run was cancelled: its lease is gone with its end, and its record says what the end
was. A lease that is gone proves nothing by itself, since a store may lose leases, or be another one. An end may also
be from before the work began: a cancel in the queue, or an id that is used twice.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from secrets import token_hex
from typing import Final

import msgspec

from runstore.adapters.dispatch import Standing
from runstore.adapters.holding import Holding, RedisHolding
from runstore.adapters.reaping import RedisReaping
from runstore.background import Background, off_loop
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import Hold
from runstore.core.ids import RunId
from runstore.core.lease import HEARTBEATS_PER_LEASE
from runstore.core.status import Status
from runstore.publish.config import PublisherConfig
from runstore.publish.held import HeldStore
from runstore.publish.tracked import Asked, TrackedRun
from runstore.publish.trouble import Trouble

SOON_S: Final = 0.5
"""How soon a lease that could not be taken or renewed is tried again, while the store is away."""
FORGET_S: Final = 1.0
AT_ONCE: Final = 500
"""How many leases are taken or renewed in one round trip."""

_LOG: Final = logging.getLogger("runstore.publish")


class _Lease(Holding, kw_only=True):
    """A lease, and the run to be told of its cancel."""

    run: TrackedRun
    was_looked_at: bool = False
    is_ending: bool = False
    answered: "Future[None]" = msgspec.field(default_factory=Future)

    def answer(self) -> None:
        """Let those who wait for the lease go on."""
        with contextlib.suppress(InvalidStateError):  # they went on already
            self.answered.set_result(None)


class Leases:
    """The leases of one process. `hold` returns at once."""

    def __init__(self, url: str, config: PublisherConfig) -> None:
        self._config = config
        self._held = HeldStore(url, config)
        self._worker = f"{socket.gethostname()[:60]}:{os.getpid()}"
        self._background = Background("runstore-leases", self._stop, ends_with_process=False)
        self._leases: dict[RunId, _Lease] = {}
        self._to_look_at: dict[RunId, _Lease] = {}
        self._under_way: frozenset[RunId] = frozenset()
        self._trouble = Trouble()
        self._news = asyncio.Event()
        self._beating = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether these are another process's, from which this one was forked."""
        return self._background.is_foreign

    def hold(self, run: TrackedRun, attempt: int) -> Asked | None:
        """Hold a run from now on; None where the process is ending, and nobody would renew its lease.

        Raises: NoThread.
        """
        if self._background.is_over:
            return None
        run_id = RunId(run.run_id)
        lease = _Lease(run_id=run_id, project_name=run.project_name, attempt=attempt, token=token_hex(16), run=run)
        self._background.loop.call_soon_threadsafe(self._add, lease)
        hold = Hold(token=lease.token, worker=self._worker, term_ms=round(self._config.lease_s * 1000))
        return Asked(hold, lease.answered)

    def ending(self, run_id: RunId) -> None:
        """Hold a run on while its end is told, but tell its work of no cancel any more."""
        if self._background.is_at_work:
            with contextlib.suppress(RuntimeError):  # it has just ended with the process
                self._background.loop.call_soon_threadsafe(self._ending, run_id)

    async def let_go(self, run_id: RunId, *, drop: bool) -> None:
        """Stop holding a run; with `drop` its lease ends now, and nothing is under way when this returns.

        Else it ends with the run or, where the run's end was lost, by itself.
        """
        if self._background.is_at_work:
            await asyncio.wrap_future(self._background.submit(self._let_go(run_id, drop=drop)))

    async def close(self) -> None:
        """End the heartbeats; what is still held ends with its lease. May be called twice."""
        await off_loop(self._background.stop)

    def _add(self, lease: "_Lease") -> None:
        self._leases[lease.run_id] = lease
        self._news.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._beat_forever())

    def _ending(self, run_id: RunId) -> None:
        self._to_look_at.pop(run_id, None)
        if lease := self._leases.get(run_id):
            lease.is_ending = True
            lease.answer()

    async def _let_go(self, run_id: RunId, *, drop: bool) -> None:
        lease = self._leases.pop(run_id, None)
        self._to_look_at.pop(run_id, None)
        if lease is None:
            return
        lease.answer()
        # the event that began the run may have taken it as well; while the store is away, neither can have
        may_be_taken = lease.is_taken or run_id in self._under_way or not self._trouble.count
        if not drop or not may_be_taken:
            return
        try:
            async with asyncio.timeout(FORGET_S), self._beating:
                await RedisHolding(await self._held.store()).drop(run_id, lease.token)
        except (RunstoreError, TimeoutError):
            _LOG.info("lease_left", extra={"run_id": run_id})

    async def _beat_forever(self) -> None:
        clock = asyncio.get_running_loop().time
        every_s = min(self._config.heartbeat_s, self._config.lease_s / HEARTBEATS_PER_LEASE)
        renew_at = clock() + every_s
        while True:
            self._news.clear()
            is_due = clock() >= renew_at
            try:
                await self._beat([lease for lease in self._leases.values() if is_due or not lease.is_taken])
                await self._look()
            except Exception as error:  # noqa: BLE001 - whatever it was, the runs must be held
                self._held.doubt()
                for lease in self._leases.values():
                    lease.answer()
                self._trouble.tell(_LOG, "heartbeat_put_off", error)
                await asyncio.sleep(min(SOON_S, every_s))
                continue
            self._trouble.is_over()
            if is_due:
                renew_at = clock() + every_s
            try:
                async with asyncio.timeout(renew_at - clock() if self._leases else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _beat(self, leases: Sequence["_Lease"]) -> None:
        """Take what is new and renew the rest. Raises: StoreUnavailable."""
        lease_ms = round(self._config.lease_s * 1000)
        for first in range(0, len(leases), AT_ONCE):
            async with self._beating:
                at_once = [lease for lease in leases[first : first + AT_ONCE] if lease.run_id in self._leases]
                self._under_way = frozenset(lease.run_id for lease in at_once)
                try:
                    holding = RedisHolding(await self._held.store())
                    standings = await holding.hold_each(at_once, worker=self._worker, lease_ms=lease_ms)
                finally:
                    self._under_way = frozenset()
                refused = [standing for standing in standings if isinstance(standing, StoreUnavailable)]
                if refused and len(refused) == len(standings):
                    raise refused[0]
                for lease, standing in zip(at_once, standings, strict=True):
                    self._note(lease, standing)

    def _note(self, lease: "_Lease", standing: Standing | StoreUnavailable) -> None:
        lease.answer()
        if isinstance(standing, StoreUnavailable):
            _LOG.warning("run_not_held", extra={"run_id": lease.run_id, "reason": standing.detail[:200]})
            return
        if self._leases.get(lease.run_id) is not lease:
            return
        is_lost, was_taken = standing is Standing.LOST, lease.is_taken
        if not lease.is_ending and (is_lost or (was_taken and not lease.was_looked_at)):
            # once also where all is well: the end may have come before the lease, which knows of none then
            self._to_look_at[lease.run_id] = lease
        lease.is_taken = not is_lost
        if is_lost and was_taken:
            # it has ended, another process has it, or the store has lost it, which alone is mended by us
            lease.yields = True
            self._news.set()
        elif is_lost:
            del self._leases[lease.run_id]

    async def _look(self) -> None:
        """Tell the runs that were cancelled. Raises: StoreUnavailable."""
        looked_at = list(self._to_look_at.values())[:AT_ONCE]
        if not looked_at:
            return
        store = await self._held.store()
        records = await store.runs.get_many([lease.run_id for lease in looked_at])
        now_ms = await RedisReaping(store).now_ms()
        for lease, record in zip(looked_at, records, strict=True):
            lease.was_looked_at = True
            if self._to_look_at.get(lease.run_id) is not lease:
                continue
            del self._to_look_at[lease.run_id]
            began_ms = now_ms - (time.monotonic() - lease.run.began) * 1000
            if record is not None and record.run.status is Status.CANCELLED:
                lease.run.cancelled(before_it_began=record.run.recorded_ms < began_ms)

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._held.aclose()
