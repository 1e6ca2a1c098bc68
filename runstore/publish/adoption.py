"""Adopt what other processes left in their spools: those that ended, or were killed, while the store was away."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

from runstore.background import off_loop
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.publish.delivery import Delivery, Refused
from runstore.publish.spool import Spool

LOOK_S: Final = 30.0
"""How often a process that publishes looks for abandoned spools."""

_LOG: Final = logging.getLogger("runstore.publish")


class Adoption:
    """Looks for abandoned spools now and then, and delivers them in the background. Used from one event loop."""

    def __init__(self, find: Callable[[], Iterator[Spool]], delivery: Delivery) -> None:
        self._find = find
        self._delivery = delivery
        self._look_at = 0.0
        self._task: asyncio.Task[bool] | None = None
        self._delivering = asyncio.Lock()

    def look(self) -> None:
        """Look, unless that was done lately; call it when the store has just answered."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._look_at and (self._task is None or self._task.done()):
            self._look_at = loop.time() + LOOK_S
            self._task = loop.create_task(self.deliver_all())

    async def deliver_all(self) -> bool:
        """Deliver whatever was abandoned; false where some of it cannot be delivered now, and is left for later."""
        async with self._delivering:  # what we are delivering already would look as if it were not abandoned
            return await self._deliver_found()

    async def _deliver_found(self) -> bool:
        found, is_all = self._find(), True
        while (spool := await off_loop(next, found, None)) is not None:
            with closing(spool):
                try:
                    await self._deliver(spool)
                except (RunstoreError, OSError) as error:
                    is_all = False
                    _LOG.warning("spool_left", extra={"reason": str(error)[:200]})
                    if isinstance(error, StoreUnavailable) and not isinstance(error, Refused):
                        self._look_at = 0.0  # when it answers again, it is back
                        break
        return is_all

    async def _deliver(self, spool: Spool) -> None:
        while not spool.is_empty:
            try:
                await self._delivery.send_waiting(spool)
            except Refused:
                if not spool.aside:  # everything that waits had its turn
                    raise

    async def stop(self, within_s: float) -> None:
        """Stop, as soon as what was found is delivered or the time is over; the rest stays where it is."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within_s)
            self._task.cancel()
            await asyncio.wait({self._task})
