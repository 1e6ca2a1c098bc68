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
        self._late_s: dict[int, float] = {}
        self._can_reach = False
        self._ends: dict[int, tuple[int, float]] = {}
        self.partitions_behind = 0
        self.untold_entries = self._untold = 0
        """Feed entries that were committed, and not told to the listeners, when the store was looked at last."""

        self._reason = "the store was not looked at yet"

    @property
    def reason(self) -> str:
        """Why the gateway is not ready; empty where it is."""
        if self._reason:
            return self._reason
        return "" if self._tail.is_connected else "the feed cannot be followed at the moment"

    @property
    def untold_s(self) -> float:
        """How long the tail has not reached where the end of a feed was: of the partition where that is longest."""
        now = time.monotonic()
        late = [now - at for partition, (n, at) in self._ends.items() if self._tail.place(partition).n < n]
        return max(late, default=0.0)

    @property
    def lag_s(self) -> float | None:
        """For how long the projector had not got to where the end of the log was, at the last look, and where longest.

        None where the store cannot be reached. Units: seconds.
        """
        return round(max(self._late_s.values(), default=0.0), 3) if self._can_reach else None

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
                self._untold = 0
                behind = [place.partition for place in places if await self._is_behind(place)]
                self.untold_entries = self._untold
        except (RunstoreError, TimeoutError):
            self._reason = "the store cannot be reached"
            self._can_reach = False
            return
        self._can_reach = True
        self.partitions_behind = len(behind)
        self._reason = f"the projector is behind in {len(behind)} of {len(places)} partitions" if behind else ""

    async def _is_behind(self, place: Place) -> bool:
        sight = await self._store.feed.sight(place)
        self._see_end(place.partition, sight.last)
        mark = self._marks.get(place.partition)
        now = time.monotonic()
        # where commits wait to be safe, what counts is what was told
        waits = self._tail.floor(place.partition) is not None
        reached = (place.folded or EntryId(0, 0)) if waits else sight.last_entry
        is_there = mark is None or reached >= mark[0]
        self._late_s[place.partition] = 0.0 if is_there or mark is None else now - mark[1]
        if is_there:
            self._marks[place.partition] = sight.log_end, now
        return self._late_s[place.partition] > self._lag_s

    def _see_end(self, partition: int, end: int) -> None:
        here = self._tail.place(partition).n
        self._untold += max(0, end - here)
        seen = self._ends.get(partition)
        if seen is None or here >= seen[0] or end < seen[0]:  # the last: the feed was taken back, or began anew
            self._ends[partition] = end, time.monotonic()
