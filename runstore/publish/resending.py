"""Send the latest events again to a store that no longer has them: see `recent` for when that is.

The store is looked at when it was connected to anew, and every few seconds for as long as something is recent, by one
small question: a process that has nothing more to tell would else not hear that its last word was lost.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from runstore.core.cursor import Standing, judge
from runstore.core.errors import StoreUnavailable
from runstore.core.event import Event
from runstore.publish.config import PublisherConfig
from runstore.publish.held import HeldStore
from runstore.publish.recent import Acknowledged, Recent
from runstore.publish.trouble import Trouble

LOOK_S: Final = 5.0
"""How often the store is looked at while something is recent and nothing seems to have happened."""

_LOG: Final = logging.getLogger("runstore.publish")
Send = Callable[[Sequence[Event]], Awaitable[object]]


class Resending:
    """Watches over what was acknowledged lately. Used from one event loop."""

    def __init__(self, held: HeldStore, config: PublisherConfig, send: Send) -> None:
        self._held = held
        self._config = config
        self._send = send
        self._recent = Recent(config.recent_bytes)
        self._life = 0
        self._is_suspect = asyncio.Event()
        self._is_well = asyncio.Event()
        self._is_well.set()
        self._trouble = Trouble()
        self._task: asyncio.Task[None] | None = None

    def note(self, acknowledged: Sequence[Acknowledged]) -> None:
        """Take note of events that the store has just acknowledged."""
        for each in acknowledged:
            self._recent.add(each)
            if each.life != self._life:
                if self._life:
                    self._suspect()
                else:
                    self._life = each.life
        if self._task is None and self._recent:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="runstore-resending")

    async def close(self, within_s: float) -> None:
        """Stop; what is known to be lost is sent first, for a bounded time."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._is_well.wait()
            self._task.cancel()
            await asyncio.wait({self._task})

    def _suspect(self) -> None:
        self._is_suspect.set()
        self._is_well.clear()

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._recent:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._is_suspect.wait()
                self._is_suspect.clear()
                began = clock()
                try:
                    await self._look()
                except Exception as error:  # noqa: BLE001 - whatever it was, the events may be lost and must be kept
                    self._trouble.tell(_LOG, "recent_events_not_confirmed", error)
                    self._suspect()
                    await asyncio.sleep(self._config.max_backoff_s)
                    continue
                self._trouble.is_over()
                if not self._is_suspect.is_set():
                    self._is_well.set()
                self._recent.forget_before(began - self._config.recent_s)
        finally:
            self._task = None

    async def _look(self) -> None:
        """See whether the store still has what it acknowledged, and send it again where not."""
        from runstore.adapters.connection import is_forbidden

        store = await self._held.store()
        found = await store.log.epochs(self._recent.partitions)
        life = store.connections.made
        epochs = {partition: epoch for partition, epoch in found.items() if isinstance(epoch, bytes)}
        lost: set[int] = set()
        for place in self._recent.doubtful(life if life != self._life else 0, epochs):
            try:
                standing = judge(place, await store.feed.sight(place))
            except StoreUnavailable as error:
                if not is_forbidden(error):
                    raise
                # who may only write cannot see whether it is there still, and a repeat does no harm
                standing = Standing.LOST
            if standing is Standing.LOST:
                lost.add(place.partition)
        if lost:
            await self._resend(self._recent.of(lost))
        self._life = life

    async def _resend(self, lost: Sequence[Acknowledged]) -> None:
        _LOG.warning("events_sent_again", extra={"events": len(lost)})
        for first in range(0, len(lost), self._config.batch_events):
            batch = lost[first : first + self._config.batch_events]
            await self._send([each.event for each in batch])
            self._recent.forget(batch)
