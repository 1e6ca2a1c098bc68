"""Adopt what other processes left in their spools: those that ended, or were killed, while the store was away."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

from runstore.core.errors import RunstoreError
from runstore.publish.delivery import Delivery
from runstore.publish.spool import Spool, off_loop

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

    def look(self) -> None:
        """Look, unless that was done lately; call it when the store has just answered."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._look_at and (self._task is None or self._task.done()):
            self._look_at = loop.time() + LOOK_S
            self._task = loop.create_task(self.deliver_all())

    async def deliver_all(self) -> bool:
        """Deliver whatever was abandoned; false where some of it cannot be delivered now, and is left for later."""
        found = self._find()
        while (spool := await off_loop(next, found, None)) is not None:
            with closing(spool):
                try:
                    while not spool.is_empty:
                        await self._delivery.send_waiting(spool)
                except (RunstoreError, OSError) as error:
                    self._look_at = 0.0
                    _LOG.warning("spool_left", extra={"reason": str(error)[:200]})
                    return False
        return True

    async def stop(self) -> None:
        """Stop; what was not delivered stays where it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
