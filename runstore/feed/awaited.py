"""Waits for the tail to get somewhere: to a number of a partition's feed, or past an entry of its log."""

import asyncio
from collections.abc import Callable

from runstore.core.cursor import Place
from runstore.core.errors import StoreUnavailable


class Awaited:
    """Those who wait for one partition."""

    def __init__(self) -> None:
        self._waits: list[tuple[Callable[[Place], bool], asyncio.Future[None]]] = []

    async def until(self, is_there: Callable[[Place], bool], timeout_s: float) -> None:
        """Wait until the partition's place fulfils the condition.

        Raises: StoreUnavailable when that takes too long, or when the store was rolled back meanwhile.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wait = is_there, future
        self._waits.append(wait)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise StoreUnavailable("the projector did not get there in time: try again") from None
        finally:
            if wait in self._waits:
                self._waits.remove(wait)

    def advance(self, place: Place) -> None:
        """Wake those whose condition the new place fulfils."""
        if not self._waits:
            return
        waiting = self._waits
        self._waits = []
        for wait in waiting:
            is_there, future = wait
            if future.done():
                continue
            if is_there(place):
                future.set_result(None)
            else:
                self._waits.append(wait)

    def fail(self, detail: str) -> None:
        """Wake everybody with the news that their place will not come."""
        for _, future in self._waits:
            if not future.done():
                future.set_exception(StoreUnavailable(detail))
        self._waits = []
