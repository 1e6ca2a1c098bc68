"""The tail: one loop that follows the feeds of all partitions and tells those who listen.

It begins at the newest places. Each entry names the commit that it follows: where that is not the one that was read
last, the store was rolled back between two reads. After each failure, and every half minute, it proves its places too.
Where one is lost or entries were trimmed unread, it stands at the newest place again and says so to everybody. It never
waits for a listener.

Entries of commits that are to be more than acknowledged are kept back until the safe mark has passed them; to be told
means all of it: pushed, in the places and cursors, and in answers that wait for it.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic, time

import msgspec

from runstore import telemetry
from runstore.core.cursor import Cursor, FeedSight, Place, Standing, certain_ms, judge
from runstore.core.errors import CursorLost, RunstoreError, StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.fold import MAX_STREAM_MS
from runstore.core.ids import RunId
from runstore.core.partition import partition_of
from runstore.core.run import Run
from runstore.core.subscription import Version
from runstore.core.tally import DELAY_S, Tally
from runstore.feed.awaited import Awaited
from runstore.feed.body import Bodies, FetchView
from runstore.feed.config import TailConfig
from runstore.feed.held import Held
from runstore.feed.hub import Hub, Push, Rollback
from runstore.feed.looked import LookedUp
from runstore.feed.proven import Proven
from runstore.feed.shared import Shared
from runstore.feed.terminal import wait_terminal
from runstore.ports import Feed
from runstore.wire.cursor import encode_cursor
from runstore.wire.feed import FeedEntry, Mark
from runstore.wire.record import Record

_LOG = logging.getLogger("runstore.feed")


class FeedTail:
    """Follow the feed. `fetch_view` is `Outputs.view`, for outputs that do not travel in the feed."""

    def __init__(self, feed: Feed, fetch_view: FetchView, config: TailConfig | None = None) -> None:
        self.config = config or TailConfig()
        self.hub = Hub()
        self.bodies = Bodies(fetch_view, self.config.body_cache_bytes)
        self.looked = LookedUp(self.bodies, self.config.looked_bytes)
        self.failures = 0
        self.rollbacks = 0
        self.entries = 0
        self.delay = Tally(DELAY_S)
        """Seconds from terminal events to their pushes, of those that somebody listened to."""

        self.is_connected = False
        self._feed = feed
        self._sights = Shared(feed.sight, self.config.shared_fresh_s)
        self._reads = Shared(self._read, self.config.shared_fresh_s)
        self._proven = Proven()
        self._places: list[Place] = []
        self._awaited: list[Awaited] = []
        self._held: defaultdict[int, Held] = defaultdict(Held)
        self._has_mark = feed.has_mark
        self._forgetters: list[Callable[[Rollback], None]] = []
        self._proven_at_s = 0.0
        self._store_id: bytes | None = None
        self._identified_at_s = 0.0
        self._failing = 0
        self._stopping = False
        self._generation = 0
        self._text_of: tuple[Place | None, int, str] = None, -1, ""
        self._texts: dict[int, tuple[Place, str]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the newest places and begin to follow; returns once the places are known.

        Raises: StoreUnavailable.
        """
        if self._loop is not None:
            return
        self._places = [_tail_place(place, entry) for place, entry in await self._feed.tail()]
        self._places.sort(key=lambda place: place.partition)
        self._awaited = [Awaited() for _ in self._places]
        self._store_id = await self._feed.store_id()
        self._proven_at_s = self._identified_at_s = monotonic()
        self.is_connected = True
        self._loop = asyncio.create_task(self._follow(), name="feed-tail")

    async def stop(self) -> None:
        """Stop following; who still waits for a place is told that it will not come."""
        self._stopping = True
        loop = self._loop
        while loop is not None and not loop.done():
            loop.cancel()  # again where a client library swallowed it
            await asyncio.wait([loop], timeout=1.0)
        self.is_connected = False
        self.bodies.close()
        for awaited in self._awaited:
            awaited.fail("the gateway is stopping")

    async def wait(self) -> None:
        """Return after `stop`; raise what the loop died of."""
        if self._loop is None:
            return
        await asyncio.wait([self._loop])
        if not self._loop.cancelled():
            self._loop.result()

    def on_rollback(self, forget: Callable[[Rollback], None]) -> None:
        """Call this at each rollback, before any listener hears of it: here caches are forgotten."""
        self._forgetters.append(forget)

    @property
    def partitions(self) -> int:
        """How many partitions are followed."""
        return len(self._places)

    def partition_of(self, run_id: RunId) -> int:
        """Return the partition of a run."""
        return partition_of(run_id, len(self._places))

    def place(self, partition: int) -> Place:
        """Return the place up to which the partition was told to the listeners."""
        return self._places[partition]

    def floor(self, partition: int) -> int | None:
        """Return the number of the last commit that may be told; None where all that is committed may."""
        return self._places[partition].n if self._has_mark else None

    def cursor_for(self, run_id: RunId) -> Cursor:
        """Return the cursor of one run: the place of its partition."""
        return (self._places[self.partition_of(run_id)],)

    def whole_cursor(self) -> Cursor:
        """Return the places of all partitions."""
        return tuple(self._places)

    def text_of(self, place: Place) -> str:
        """Write the cursor of one place; that of a partition's last one is kept, since many ask for it."""
        kept = self._texts.get(place.partition)
        if kept is not None and kept[0] is place:
            return kept[1]
        text = encode_cursor((place,))
        self._texts[place.partition] = place, text
        return text

    def cursor_text(self, partitions: Sequence[int] | None = None, latest: Place | None = None) -> str:
        """Write the cursor of some partitions (None: all) for those who have heard all up to here, and `latest`.

        Needs: for `latest`, that it follows the partition's place at once; that is what `hear` gives.
        """
        if partitions is None and latest is self._text_of[0] and self._text_of[1] == self._generation:
            return self._text_of[2]
        if partitions is not None and len(partitions) == 1:
            place = self._places[partitions[0]]
            return self.text_of(latest if latest is not None and latest.partition == place.partition else place)
        places = self._places if partitions is None else [self._places[partition] for partition in partitions]
        if latest is not None:
            places = [latest if place.partition == latest.partition else place for place in places]
        text = encode_cursor(tuple(places))
        if partitions is None:
            self._text_of = latest, self._generation, text
        return text

    async def passed(self, partition: int, entry_id: EntryId, timeout_s: float | None = None) -> None:
        """Wait until the listeners were told of a commit that folded the log up to the entry.

        Raises: StoreUnavailable when it does not come in time (5 s unless told).
        """
        await self._until(partition, lambda place: (place.folded or (0, 0)) >= entry_id, timeout_s)

    async def told(self, partition: int, n: int, timeout_s: float | None = None) -> None:
        """Wait until the listeners were told of commit `n` of a partition.

        Raises: StoreUnavailable when it does not come in time (5 s unless told).
        """
        await self._until(partition, lambda place: place.n >= n, timeout_s)

    async def settled(self, partitions: Iterable[int] | None = None) -> None:
        """Wait until what was read of some partitions (None: all), before this was called, may be told.

        Raises: StoreUnavailable when it may not in time.
        """
        if not self._has_mark:
            return
        end_s = monotonic() + self.config.after_timeout_s
        newest = await self._feed.newest(tuple(range(self.partitions) if partitions is None else partitions))
        for partition, mark in newest.items():
            await self.told(partition, mark.n, max(0.0, end_s - monotonic()))
            place = self._places[partition]
            if place.n == mark.n and place.nonce != mark.nonce:
                raise StoreUnavailable("the store that was read is not the one that is followed: try again")

    async def reached(self, cursor: Cursor, timeout_s: float | None = None) -> None:
        """Wait until what is read next cannot be from before the cursor.

        Raises: CursorLost where the store no longer has one of its places; StoreUnavailable where the projector does
        not get there in time (5 s unless told).
        """
        standings = await self.judge(cursor)
        if Standing.LOST in standings.values():
            raise CursorLost("the store was rolled back behind this cursor: read again without it")
        limit_s = self.config.after_timeout_s if timeout_s is None else timeout_s
        end_s = monotonic() + limit_s
        for place in cursor:
            left_s = max(0.0, end_s - monotonic())
            if place.entry is None:
                await self.told(place.partition, place.n, left_s)
            else:
                await self.passed(place.partition, place.entry, left_s)

    async def judge(self, cursor: Cursor) -> dict[int, Standing]:
        """Say how each place of a client's cursor stands, by partition; one that cannot be is lost.

        Raises: StoreUnavailable.
        """
        return await self._judge(cursor, self._sights.ask)

    async def judge_for_listener(self, cursor: Cursor) -> dict[int, Standing]:
        """Say how each place of a client's cursor stands, as `judge`, where the client hears of rollbacks from now on.

        A place that was proven to another such client is taken for proven; what was trimmed behind it since is not
        seen here, but by whoever reads on from it.

        Raises: StoreUnavailable.
        """
        known, unknown = self._proven.split(cursor)
        rollbacks = self.rollbacks
        standings = await self.judge(unknown) if unknown else {}
        if rollbacks == self.rollbacks:
            for place in unknown:
                if standings[place.partition] is Standing.PROVEN:
                    self._proven.keep(place, self._places[place.partition])
        return known | standings

    async def _judge(self, cursor: Cursor, see: Callable[[Place], Awaitable[FeedSight]]) -> dict[int, Standing]:
        known = [place for place in cursor if self._can_be(place)]
        standings = {place.partition: Standing.LOST for place in cursor}
        sights = await asyncio.gather(*(see(place) for place in known))
        standings.update({place.partition: judge(place, sight) for place, sight in zip(known, sights, strict=True)})
        return standings

    def _can_be(self, place: Place) -> bool:
        entry = place.entry or EntryId(0, 0)
        numbers = place.n, entry.ms, entry.seq
        return 0 <= place.partition < self.partitions and all(0 <= number < 2**63 for number in numbers)

    async def read(self, partition: int, after: int, upto: int) -> list[FeedEntry]:
        """Read kept feed entries with numbers in (after, upto], once for all who read the same.

        Raises: StoreUnavailable.
        """
        return await self._reads.ask((partition, after, upto))

    async def _read(self, which: tuple[int, int, int]) -> list[FeedEntry]:
        return await self._feed.read(*which)

    def place_of(self, partition: int, entry: FeedEntry) -> Place:
        """Return the place behind a feed entry."""
        return _place_of(self._places[partition], entry)

    def pushes(self, partition: int, entry: FeedEntry, *, wanted_only: bool = True) -> list[Push]:
        """Make the pushes of a feed entry: of what somebody listens to, or of all."""
        place = self.place_of(partition, entry)
        return [
            Push(place, Version(entry.n, position), self.bodies.make(change.run, change.output), change.item)
            for position, change in enumerate(entry.changes)
            if not wanted_only or self.hub.wants(change.run)
        ]

    async def wait_terminal(
        self, run_id: RunId, look: Callable[[], Awaitable[Record | None]], timeout_s: float
    ) -> Run | None:
        """Wait until a run has ended, and return it; when the time is over, return it as it stands (None: unknown)."""
        return await wait_terminal(self.hub, run_id, look, timeout_s)

    async def turn(self) -> None:
        """Prove the places if that is due, wait once for news and tell them.

        Raises: StoreUnavailable.
        """
        if monotonic() - self._proven_at_s >= self.config.prove_every_s or await self._is_another_store():
            await self.prove()
        torn: set[int] = set()
        numbers, marks = self._numbers()
        for partition, news in await self._feed.wait(numbers, self.config.block_ms, marks):
            if partition not in torn and not self._take(partition, news):
                torn.add(partition)
        if torn:
            await self._begin_anew(torn, lost=True)

    async def prove(self) -> None:
        """Prove every place; where one does not hold, stand at the newest and tell everybody.

        Raises: StoreUnavailable.
        """
        standings = await self._judge(tuple(self._places), self._feed.sight)
        bad = {p: standing for p, standing in standings.items() if standing in (Standing.LOST, Standing.GAP)}
        if bad:
            await self._begin_anew(bad, lost=Standing.LOST in bad.values())
        self._proven_at_s = monotonic()

    async def _is_another_store(self) -> bool:
        """Whether the store was emptied or replaced since the last look: a read would wait for its old numbers."""
        if monotonic() - self._identified_at_s < self.config.identify_every_s:
            return False
        before, self._store_id = self._store_id, await self._feed.store_id()
        self._identified_at_s = monotonic()
        return self._store_id != before

    async def _begin_anew(self, partitions: Iterable[int], *, lost: bool) -> None:
        newest = {place.partition: _tail_place(place, entry) for place, entry in await self._feed.tail()}
        self._roll_back({partition: newest[partition] for partition in partitions}, lost=lost)

    def _numbers(self) -> tuple[dict[int, int], dict[int, int]]:
        """Say after which numbers to read: of the feeds, and of the marks of partitions that are waited for."""
        numbers = {place.partition: place.n for place in self._places}
        marks: dict[int, int] = {}
        if self._has_mark:
            for partition, held in self._held.items():
                if held:
                    marks[partition] = max(numbers[partition], held.safe_n)
                    numbers[partition] = held.last_n
                if held.is_full:
                    del numbers[partition]
        return numbers, marks

    def _take(self, partition: int, news: FeedEntry | Mark) -> bool:
        """Take what was read, and tell what may be told; false where it does not follow what was told before."""
        held = self._held[partition]
        if isinstance(news, Mark):
            ready = held.mark(news)
        elif not news.is_marked and not held:
            ready = [news]
        else:
            self._has_mark = True
            ready = held.hear(news)
        return all(self._tell(partition, entry) for entry in ready)

    def _tell(self, partition: int, entry: FeedEntry) -> bool:
        """Tell the listeners of an entry; false where it does not follow what they were told before."""
        here = self._places[partition]
        if entry.n <= here.n:
            return True
        there = _place_of(here, entry)
        if entry.n != here.n + 1:
            self._roll_back({partition: there}, lost=False)
            return True
        if entry.before != here.nonce:
            return False
        for change in entry.changes:
            self.looked.told(change.run.run_id, entry.n)
        pushes = self.pushes(partition, entry)
        if pushes:
            self.hub.dispatch(pushes)
            self._measure(pushes)
        self.entries += 1
        self._generation += 1
        self._places[partition] = there
        self._awaited[partition].advance(there)
        return True

    def _measure(self, pushes: list[Push]) -> None:
        ended = [
            (push.item.ms, push.run)
            for push in pushes
            if push.is_transition and push.item is not None and push.run.is_terminal
        ]
        if not ended:
            return
        now_ms = time() * 1000
        for at_ms, _ in ended:
            self.delay.observe(max(0.0, now_ms - at_ms) / 1000)
        if telemetry.is_on():
            for at_ms, run in ended:
                if run.traceparent is not None:
                    told = {"run_id": run.run_id, "status": run.status.value}
                    telemetry.begin("runstore.push", run.traceparent, kind="producer", start_ms=at_ms, **told).end()

    def _roll_back(self, places: dict[int, Place], *, lost: bool) -> None:
        self.rollbacks += 1
        upto_ms = min(MAX_STREAM_MS, certain_ms((self._places[p] for p in places), self._places))
        rollback = Rollback(
            partitions=frozenset(places),
            since_us=max(0, upto_ms * 1000 - int(self.config.rollback_slack_s * 1_000_000)),
            detail="the store was rolled back or replaced" if lost else "entries of the feed were trimmed unread",
        )
        _LOG.warning("feed_rolled_back", extra={"partitions": sorted(places), "lost": lost})
        self._generation += 1
        for partition, place in places.items():
            self._places[partition] = place
            self._held[partition].drop()
            if lost:
                self._awaited[partition].fail("the store was rolled back: try again")
            else:
                self._awaited[partition].advance(place)
        self.bodies.forget()
        for kept in (self.looked, self._sights, self._reads, self._proven):
            kept.forget_all()
        for forget in self._forgetters:
            forget(rollback)
        self.hub.roll_back(rollback)

    async def _until(self, partition: int, is_there: Callable[[Place], bool], timeout_s: float | None) -> None:
        if not is_there(self._places[partition]):
            limit_s = self.config.after_timeout_s if timeout_s is None else timeout_s
            await self._awaited[partition].until(is_there, limit_s)

    async def _follow(self) -> None:
        while not self._stopping:
            try:
                if self._failing:
                    await self.prove()
                await self.turn()
            except Exception as error:  # noqa: BLE001 - whatever it was, the feed goes on and must be followed
                await self._back_off(error)
            else:
                self._failing = 0
                self.is_connected = True

    async def _back_off(self, error: Exception) -> None:
        for held in self._held.values():
            held.drop()  # who answers next may be another server
        self.failures += 1
        self._failing += 1
        self.is_connected = False
        pause_s = min(self.config.backoff_max_s, self.config.backoff_s * 2 ** min(self._failing - 1, 16))
        if isinstance(error, RunstoreError):
            _LOG.warning("feed_turn_failed", extra={"failures": self._failing, "reason": error.detail})
        else:
            _LOG.error("feed_turn_failed", exc_info=error, extra={"failures": self._failing})
        await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - jitter, no secret


def _place_of(here: Place, entry: FeedEntry) -> Place:
    return Place(partition=here.partition, epoch=here.epoch, n=entry.n, nonce=entry.nonce, folded=EntryId(*entry.entry))


def _tail_place(place: Place, entry: FeedEntry | None) -> Place:
    return _place_of(place, entry) if entry is not None else msgspec.structs.replace(place, folded=None)
