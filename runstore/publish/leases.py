"""Hold the runs that a process tracks, by heartbeats from a thread of its own, so that its sudden end is noticed.

The thread is not the work's: neither a loop that computes nor a call that blocks makes a healthy run look lost. A lease
is taken once and then only renewed, so that one whose run has ended meanwhile is not made again.
"""

import asyncio
import logging
import os
import socket
from concurrent.futures import Future
from secrets import token_hex
from typing import Final

import msgspec

from runstore.adapters.dispatch import RedisDispatch, Standing
from runstore.adapters.holding import RedisHolding
from runstore.background import Background
from runstore.core.errors import RunstoreError
from runstore.core.ids import RunId
from runstore.core.lease import HEARTBEATS_PER_LEASE
from runstore.publish.config import PublisherConfig
from runstore.publish.held import HeldStore

SOON_S: Final = 0.5
"""How soon a lease that could not be taken or renewed is tried again, while the store is away."""
FORGET_S: Final = 1.0

_LOG: Final = logging.getLogger("runstore.publish")


class _Lease(msgspec.Struct, kw_only=True):
    run_id: RunId
    project_name: str
    attempt: int
    token: str
    is_taken: bool = False


class Leases:
    """The leases of one process. `hold` and `let_go` return at once, and may be called from any thread."""

    def __init__(self, url: str, config: PublisherConfig) -> None:
        self._config = config
        self._held = HeldStore(url, config)
        self._worker = f"{socket.gethostname()[:60]}:{os.getpid()}"
        self._background = Background("runstore-leases", self._stop, is_anothers=True)
        self._leases: dict[RunId, _Lease] = {}
        self._news = asyncio.Event()
        self._beating = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether these are another process's, from which this one was forked."""
        return self._background.is_foreign

    def hold(self, run_id: RunId, project_name: str, attempt: int) -> None:
        """Hold a run from now on."""
        lease = _Lease(run_id=run_id, project_name=project_name, attempt=attempt, token=token_hex(16))
        self._background.loop.call_soon_threadsafe(self._add, lease)

    def let_go(self, run_id: RunId, *, drop: bool) -> "Future[None]":
        """Stop holding a run; with `drop` its lease ends now, else with the run. Done when nothing is under way."""
        return self._background.submit(self._let_go(run_id, drop=drop))

    async def close(self) -> None:
        """End the heartbeats; what is still held ends with its lease. May be called twice."""
        await asyncio.wrap_future(self._background.submit(self._stop()))
        self._background.stop()

    def _add(self, lease: _Lease) -> None:
        self._leases[lease.run_id] = lease
        self._news.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._beat_forever())

    async def _let_go(self, run_id: RunId, *, drop: bool) -> None:
        lease = self._leases.pop(run_id, None)
        if lease is None:
            return
        try:
            async with asyncio.timeout(FORGET_S), self._beating:
                if drop and lease.is_taken:
                    await RedisHolding(await self._held.store()).drop(run_id, lease.token)
        except (RunstoreError, TimeoutError):
            _LOG.info("lease_left", extra={"run_id": run_id})

    async def _beat_forever(self) -> None:
        every_s = min(self._config.heartbeat_s, self._config.lease_s / HEARTBEATS_PER_LEASE)
        while True:
            self._news.clear()
            try:
                async with self._beating:
                    await self._beat()
                pause_s = every_s
            except RunstoreError as error:
                self._held.doubt()
                pause_s = min(SOON_S, every_s)
                _LOG.warning("heartbeat_put_off", extra={"reason": error.detail[:200]})
            except Exception:  # noqa: BLE001 - whatever it was, the other runs must be held
                pause_s = every_s
                _LOG.exception("heartbeat_failed")
            try:
                async with asyncio.timeout(pause_s if self._leases else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        """Take what is new and renew the rest. Raises: StoreUnavailable."""
        for lease in list(self._leases.values()):
            if lease.run_id in self._leases and await self._renew(lease) is Standing.LOST:
                # it has ended, another process has it, or the store has lost it: none of these is mended by us
                self._leases.pop(lease.run_id, None)

    async def _renew(self, lease: _Lease) -> Standing:
        store = await self._held.store()
        lease_ms = round(self._config.lease_s * 1000)
        if lease.is_taken:
            return await RedisDispatch(store).heartbeat(lease.run_id, lease.token, lease_ms=lease_ms)
        standing = await RedisHolding(store).hold(
            lease.run_id,
            lease.token,
            worker=self._worker,
            project_name=lease.project_name,
            attempt=lease.attempt,
            lease_ms=lease_ms,
        )
        lease.is_taken = True
        return standing

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._held.aclose()
