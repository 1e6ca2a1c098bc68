"""Whether the gateway can do its work: the store answers, and the projector keeps up with the log.

The projector keeps up if it gets, within the configured seconds, to where the end of the log was. The end itself
moves on all the time, so being behind it says nothing.
"""

import asyncio
import time

from runstore.core.cursor import Place
from runstore.core.errors import RunstoreError
from runstore.core.event import EntryId
from runstore.feed import FeedTail
from runstore.gateway.context import Store


class Readiness:
    """What the last looks at the store said."""

    def __init__(self, store: Store, tail: FeedTail, *, lag_s: float, timeout_s: float) -> None:
        self._store = store
        self._tail = tail
        self._lag_s = lag_s
        self._timeout_s = timeout_s
        self._marks: dict[int, tuple[EntryId, float]] = {}
        self._reason = "the store was not looked at yet"

    @property
    def reason(self) -> str:
        """Why the gateway is not ready; empty where it is."""
        if self._reason:
            return self._reason
        return "" if self._tail.is_connected else "the feed cannot be followed at the moment"

    async def watch(self, every_s: float) -> None:
        """Look for as long as the gateway runs."""
        while True:
            await self.turn()
            await asyncio.sleep(every_s)

    async def turn(self) -> None:
        """Look once."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.ping()
                places = [self._tail.place(partition) for partition in range(self._tail.partitions)]
                behind = [place.partition for place in places if await self._is_behind(place)]
        except (RunstoreError, TimeoutError):
            self._reason = "the store cannot be reached"
            return
        self._reason = f"the projector is behind in {len(behind)} of {len(places)} partitions" if behind else ""

    async def _is_behind(self, place: Place) -> bool:
        sight = await self._store.feed.sight(place)
        mark = self._marks.get(place.partition)
        now = time.monotonic()
        # where commits wait to be safe, what counts is what was told
        waits = self._tail.floor(place.partition) is not None
        reached = (place.folded or EntryId(0, 0)) if waits else sight.last_entry
        if mark is None or reached >= mark[0]:
            self._marks[place.partition] = sight.log_end, now
            return False
        return now - mark[1] > self._lag_s
