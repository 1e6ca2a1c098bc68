"""One partition's projector: folds what it is given, and commits it against the cursor that it read."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from logging import getLogger
from secrets import token_bytes
from time import time
from typing import Final

import msgspec

from runstore.adapters import numbers as run_numbers
from runstore.adapters import tombstones
from runstore.adapters.commit import Verdict, Writes, commit
from runstore.adapters.mark import confirm, put_mark
from runstore.adapters.outputs import Parts, is_small, pack, prepare
from runstore.adapters.partition import Seen, Standing, load_standing, renew_if_behind, see
from runstore.adapters.records import get_records
from runstore.adapters.store import RedisStore
from runstore.core.cursor import NONCE_BYTES
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.core.partition import partition_of
from runstore.core.run import Run
from runstore.core.status import TERMINAL, Status
from runstore.ports import LeftRuns
from runstore.projection.batch import Batch, fold_batch
from runstore.projection.reading import DEAD_EVENT_BYTES, DeadLetter, Heard, read_entry
from runstore.projection.writes import optional_keys, owners_of, write_batch
from runstore.wire.feed import FeedEntry, Mark, encode_feed
from runstore.wire.record import Record

STRIKES: Final = 3
MOST_LOST: Final = 10
"""Commits in a row that may be lost before the partition is paused: more is no race."""

FUTURE_MS: Final = 60_000
"""Clocks may differ by so much."""

HEAD_CHARACTERS: Final = 2048
"""Longest texts of a run that is kept in memory: there are thousands of such."""

FEED_ENTRY_BYTES: Final = 1024 * 1024
"""About the most that one commit tells the feed, unless a single event tells more: gateways read many at once."""

_log = getLogger("runstore.projector")

Row = tuple[EntryId, Mapping[bytes, bytes]]


class Guessed(Exception):
    """A run that was taken for new was known."""


class Lost(Exception):
    """Another projector has committed: what this one knows of the partition is old."""


class PartitionProjector:
    """Fold one partition. What it knows (`standing`, heads of recent runs) is dropped when it proves to be old.

    A run that it does not know is most often new, so while that holds nobody looks: the commit does nothing where such
    a run is there, and then it is looked up. One that asks for a number is always looked up first, since a number that
    was reserved for a run that has one would be lost.
    """

    def __init__(self, store: RedisStore, partition: int, *, heads: int, archive: LeftRuns | None = None) -> None:
        self._store = store
        self._archive = archive
        self._keys = store.meta.keys[partition]
        self._partition = partition
        self._most_heads = heads
        self._heads: OrderedDict[RunId, Record] = OrderedDict()
        self._standing: Standing | None = None
        self._strikes: dict[RunId, int] = {}
        self._set_aside: dict[RunId, str] = {}
        self._numbered: set[str] = set()
        self._failures: dict[EntryId, int] = {}
        self._unfoldable: dict[EntryId, str] = {}
        self._singly_upto: EntryId | None = None
        self._lost = 0
        self._guesses = False
        self._turn = asyncio.Lock()
        self.commits = 0
        self.events: Counter[str] = Counter()
        """Events that were folded here, by what became of them, as in the partition's own stats."""

        self.transitions: Counter[Status] = Counter()
        """Transitions that were committed here, by the status that was entered."""

    @property
    def entry(self) -> EntryId | None:
        """The last event that was folded, as far as is known (None: the partition must be loaded)."""
        return self._standing.entry if self._standing is not None else None

    @property
    def is_to_be_loaded(self) -> bool:
        """Whether it is not known where the partition stands, or it stands at a time that has not come yet.

        A log with ids from the future may be set back at any time, and nothing that is read from it would say so.
        """
        return self._standing is None or self._standing.entry.ms > _now_ms() + FUTURE_MS

    async def load(self) -> None:
        """Read where the partition stands. Raises: StoreUnavailable."""
        self.drop()
        self._standing = await load_standing(self._store.client, self._keys, self._store.log, now_ms=_now_ms())
        if self._standing.is_marked and not self._store.safety.has_mark:
            # whoever made that commit waited for more than is asked for now
            await put_mark(self._store.client, self._keys, Mark(self._standing.n, self._standing.nonce))

    async def confirm(self, mark: Mark | None) -> None:
        """See to it that the newest commit is marked, where the partition's mark is another.

        Raises: StoreUnavailable.
        """
        standing = self._standing
        if standing is None or standing.n == 0 or mark == (standing.n, standing.nonce):
            return
        known = Mark(standing.n, standing.nonce)
        if not await confirm(self._store.client, self._keys, self._store.safety, known):
            self.drop()  # another server answers, or another projector was faster: read where the partition stands

    def drop(self) -> None:
        """Forget what is known of the partition, but for what was set aside."""
        self._standing = None
        self._heads.clear()
        self._guesses = False
        self._numbered.clear()

    async def project(self, rows: Sequence[Row]) -> bool:
        """Fold and commit a batch of entries; false where it must be read again.

        Raises: StoreUnavailable; whether the batch was written is then unknown.
        """
        async with self._turn:
            for part in [[row] for row in rows] if self._is_wary(rows) else [rows]:
                if not await self._attempt(part):
                    return False
            return True

    def _is_wary(self, rows: Sequence[Row]) -> bool:
        return self._singly_upto is not None and rows[0][0] <= self._singly_upto

    async def _attempt(self, rows: Sequence[Row]) -> bool:
        standing = self._standing
        if standing is None or rows[0][0] <= standing.entry:
            # dropped meanwhile: the partition went to another projector and came back; or folded by another turn
            return False
        try:
            await self._project(standing, rows)
        except Lost:
            self.drop()
            self._lost += 1
            if self._lost > MOST_LOST:
                raise StoreUnavailable(
                    f"no commit of partition {self._partition} is taken: it is tried again"
                ) from None
            return False
        except RunstoreError:
            self.drop()
            raise
        except Exception as error:  # noqa: BLE001 - what nobody thought of must not hold up what is behind it
            self.drop()
            self._fail(rows, error)
            return False
        except BaseException:
            self.drop()
            raise
        self._lost = 0
        return True

    def _fail(self, rows: Sequence[Row], error: Exception) -> None:
        """Take note that entries could not be folded: look at each alone, and set aside one that fails again.

        Raises: StoreUnavailable where even that fails, so that it is tried again in peace.
        """
        first = rows[0][0]
        _log.error("entries_not_folded", exc_info=error, extra={"entry": str(first), "entries": len(rows)})
        if len(rows) > 1:
            self._singly_upto = rows[-1][0]
            return
        self._failures[first] = self._failures.get(first, 0) + 1
        if first in self._unfoldable:
            raise StoreUnavailable(f"entry {first} can be neither folded nor set aside: it is tried again") from error
        if self._failures[first] >= STRIKES:
            self._unfoldable[first] = f"the event cannot be folded: {type(error).__name__}"

    def _read(self, row: Row) -> Heard | DeadLetter:
        entry_id, fields = row
        if entry_id in self._unfoldable:
            text = fields.get(b"event", b"")[:DEAD_EVENT_BYTES]
            return DeadLetter(entry_id=entry_id, text=text, reason=self._unfoldable[entry_id])
        return read_entry(entry_id, fields, partition=self._partition, partitions=self._store.meta.partitions)

    async def _project(self, standing: Standing, rows: Sequence[Row]) -> None:
        readings = [self._read(row) for row in rows]
        seen = await self._look(readings)
        parts = await bring_outputs(readings, seen)
        n, nonce = standing.n + 1, token_bytes(NONCE_BYTES)
        left = await self._left(standing, readings, seen)
        if left and seen.is_guess:
            self._guesses = False  # one that was brought back is in both places: look first
            await self._project(standing, rows)
            return
        batch = self._fold(readings, seen, standing, n, {}, left=left)
        feed = self._tell(standing, batch, nonce)
        if len(rows) > 1 and len(feed) > FEED_ENTRY_BYTES:
            await self._project(standing, rows[: len(rows) // 2])
            await self._project(standing, rows[len(rows) // 2 :])
            return
        if batch.numbered:
            batch = self._fold(readings, seen, standing, n, await self._reserve(standing, batch), left=left)
            feed = self._tell(standing, batch, nonce)
        inline = {place: pack(part.view) for place, part in parts.items() if is_small(part)}
        large = [
            (run_id, parts[run_id, ref.token])
            for run_id, touched in batch.touched.items()
            for ref in (touched.after.run.output, touched.after.run.late_output)
            if ref is not None and (run_id, ref.token) in parts and (run_id, ref.token) not in inline
        ]
        if large:
            await self._store.outputs.write_many(large)
        writes = write_batch(
            self._keys,
            batch,
            counts=standing.counts,
            stats=standing.stats,
            inline=inline,
            is_guess=seen.is_guess,
        )
        try:
            is_safe = await self._commit(standing, batch, writes, nonce=nonce, feed=feed)
        except Guessed:
            self._guesses = False
            await self._project(standing, rows)
            return
        self._remember(standing, batch, nonce)
        if is_safe:
            # else the numbers' own fence, on another server of a cluster, would outlive the commit
            await self._forget(standing, batch)

    async def _look(self, readings: Sequence[Heard | DeadLetter]) -> Seen:
        events = [reading.entry.event for reading in readings if isinstance(reading, Heard)]
        # one by one: a set less a dictionary's keys goes through all that the dictionary holds
        heads, aside = self._heads, self._set_aside
        unknown = {event.run_id for event in events if event.run_id not in heads and event.run_id not in aside}
        refs = {(event.run_id, event.output_ref) for event in events if event.output_ref is not None}
        known = {event.run_id: self._heads.get(event.run_id) for event in events}
        if not unknown and not refs:
            return Seen(records=known)
        if self._guesses and not refs and not any(event.numbered for event in events if event.run_id in unknown):
            return Seen(records=known, is_guess=True)
        seen = await see(self._store.client, self._keys, sorted(unknown), sorted(refs, key=repr))
        for run_id, reason in seen.corrupt.items():
            self._strike(run_id, reason)
        if seen.corrupt.keys() - self._set_aside.keys():
            raise Lost
        if unknown:
            self._guesses = not any(seen.records.values())
        seen.records = {**known, **seen.records}
        return seen

    def _fold(
        self,
        readings: Sequence[Heard | DeadLetter],
        seen: Seen,
        standing: Standing,
        n: int,
        numbers: Mapping[RunId, int],
        *,
        left: frozenset[RunId],
    ) -> Batch:
        return fold_batch(
            readings,
            heads=seen.records,
            counts=standing.counts,
            n=n,
            numbers=numbers,
            set_aside=self._set_aside,
            left=left,
        )

    async def _left(self, standing: Standing, readings: Sequence[Heard | DeadLetter], seen: Seen) -> frozenset[RunId]:
        """Find the runs that these events would begin, and that left for the archive or were erased.

        Whoever asks for a run has looked there before: a request to run begins one without more ado.
        """
        if not standing.has_archived:
            return frozenset()
        fresh: dict[RunId, str | None] = {}
        for reading in readings:
            if isinstance(reading, Heard) and seen.records.get(reading.entry.event.run_id) is None:
                event = reading.entry.event
                fresh.setdefault(event.run_id, None if event.request is not None else event.project_name or "")
        asked = [run_id for run_id, project in fresh.items() if project is not None]
        if not asked:
            return frozenset()
        perhaps = await tombstones.perhaps(self._store.client, self._keys, asked)
        if perhaps and self._archive is None:
            _log.warning("archive_not_asked", extra={"partition": self._partition, "runs": len(perhaps)})
            return frozenset()
        if not perhaps:
            return frozenset()
        # a Redis that was emptied has no runs of a project that the archive has many of
        [gone] = await tombstones.gone(self._store.client, [self._keys], None)
        projects = standing.counts.keys() | gone.newest_ms.keys()
        found = [run_id for run_id in perhaps if await self._has_left(run_id, fresh[run_id], projects)]
        if found:
            _log.info("late_events_ignored", extra={"partition": self._partition, "runs": len(found)})
        return frozenset(found)

    async def _has_left(self, run_id: RunId, project: str | None, projects: Iterable[str]) -> bool:
        assert self._archive is not None
        # the project that the event names, first: it is nearly always the one
        names = sorted(projects, key=lambda name: name != project)
        return await self._archive.is_known(run_id, names)

    async def _reserve(self, standing: Standing, batch: Batch) -> dict[RunId, int]:
        asked: dict[str, list[RunId]] = {}
        for name, run_id in batch.numbered:
            asked.setdefault(name, []).append(run_id)
        found: dict[RunId, int] = {}
        for name, run_ids in asked.items():
            fresh = name not in self._numbered
            numbers = await self._reserve_in(standing, name, run_ids, fresh=fresh)
            if numbers is None:
                raise Lost
            if fresh:
                await self._clear_leftovers(standing, name, besides=run_ids)
            self._numbered.add(name)
            found.update(zip(run_ids, numbers, strict=True))
        return found

    async def _reserve_in(
        self, standing: Standing, name: str, run_ids: Sequence[RunId], *, fresh: bool
    ) -> list[int] | None:
        try:
            numbers = await run_numbers.reserve(
                self._store.client,
                name,
                run_ids,
                partition=self._partition,
                epoch=standing.epoch,
                n=standing.n,
                fresh=fresh,
            )
        except run_numbers.Uncountable as error:
            for run_id in run_ids:
                self._strike(run_id, error.detail)
            return None
        if numbers is None:
            fence = await run_numbers.fence(self._store.client, name, self._partition)
            if fence is not None and fence[0] == standing.epoch:
                await renew_if_behind(
                    self._store.client,
                    self._keys,
                    epoch=standing.epoch,
                    n=fence[1],
                    is_marked=self._store.safety.has_mark,
                )
        return numbers

    async def _clear_leftovers(self, standing: Standing, name: str, *, besides: Sequence[RunId]) -> None:
        """Forget the reservations of runs that were committed by a projector that died right after."""
        ours = [
            run_id
            for run_id in await run_numbers.reserved(self._store.client, name)
            if run_id not in besides and partition_of(run_id, self._store.meta.partitions) == self._partition
        ]
        records = await get_records(self._store.client, self._store.meta, ours)
        done = [r.run.run_id for r in records if r is not None and r.run.run_number is not None]
        # only of commits up to the standing's own: a later one is for its own projector to forget
        done = [r.run.run_id for r in records if r is not None and r.run.run_id in done and r.version <= standing.n]
        if done:
            await self._forget_numbers(name, done, standing.epoch, standing.n)

    async def _forget(self, standing: Standing, batch: Batch) -> None:
        asked: dict[str, list[RunId]] = {}
        for name, run_id in batch.numbered:
            asked.setdefault(name, []).append(run_id)
        for name, run_ids in asked.items():
            await self._forget_numbers(name, run_ids, standing.epoch, standing.n)

    async def _forget_numbers(self, name: str, run_ids: Sequence[RunId], epoch: bytes, n: int) -> None:
        await run_numbers.forget(self._store.client, name, run_ids, partition=self._partition, epoch=epoch, n=n)

    def _tell(self, standing: Standing, batch: Batch, nonce: bytes) -> bytes:
        """Write what the feed is told by a commit with the nonce."""
        told = FeedEntry(
            n=standing.n + 1,
            nonce=nonce,
            entry=batch.last,
            changes=tuple(batch.changes),
            before=standing.nonce,
            is_marked=self._store.safety.has_mark,
        )
        return encode_feed(told)

    async def _commit(self, standing: Standing, batch: Batch, writes: Writes, *, nonce: bytes, feed: bytes) -> bool:
        """Commit, and say whether the commit is safe."""
        n, safety = standing.n + 1, self._store.safety
        without: frozenset[bytes] = frozenset()
        for _ in range(2):
            outcome = await commit(
                self._store.client,
                self._keys,
                expected=standing.nonce,
                nonce=nonce,
                n=n,
                entry=batch.last,
                feed=feed,
                commands=writes.commands(without),
                safety=safety,
                is_of_log=True,
            )
            wrong = frozenset(outcome.about)
            if outcome.verdict is not Verdict.WRONG or not wrong <= optional_keys(self._keys):
                break
            _log.error("keys_of_wrong_type_left_out", extra={"keys": sorted(map(repr, wrong))})
            without |= wrong
        if outcome.verdict is Verdict.KNOWN:
            raise Guessed
        if outcome.verdict is Verdict.WRONG:
            self._blame(wrong - optional_keys(self._keys), batch, standing)
        if outcome.verdict is Verdict.FEED and not any(b"equal or smaller" in said for said in outcome.about):
            raise StoreUnavailable(f"partition {self._partition} takes no commit: {outcome.about!r}")
        if outcome.verdict is not Verdict.DONE:
            # a feed that takes no entry of this number is no longer the one that was read: loading will mend it
            raise Lost
        if safety.has_mark:
            await self._mark(Mark(n, nonce), is_safe=outcome.is_safe)
        return outcome.is_safe

    async def _mark(self, mark: Mark, *, is_safe: bool) -> None:
        """Let gateways tell of a commit. What fails here is done by `confirm`: the commit itself stands."""
        reason = f"not {self._store.safety.durability.value} in time"
        try:
            if is_safe:
                await put_mark(self._store.client, self._keys, mark)
                return
        except StoreUnavailable as error:
            reason = error.detail
        _log.warning("commit_not_marked", extra={"partition": self._partition, "n": mark.n, "reason": reason})

    def _blame(self, wrong: frozenset[bytes], batch: Batch, standing: Standing) -> None:
        owners = owners_of(self._keys, batch, wrong, counts=standing.counts)
        if not owners:
            raise StoreUnavailable(f"keys of the wrong type hold up partition {self._partition}: {sorted(wrong)!r}")
        for run_id, key in owners.items():
            self._strike(run_id, f"the key {key!r} has the wrong type")

    def _strike(self, run_id: RunId, reason: str) -> None:
        self._strikes[run_id] = self._strikes.get(run_id, 0) + 1
        if self._strikes[run_id] >= STRIKES:
            self._set_aside[run_id] = reason
            _log.error("run_set_aside", extra={"run_id": run_id, "reason": reason})

    def _remember(self, standing: Standing, batch: Batch, nonce: bytes) -> None:
        standing.nonce, standing.n, standing.entry = nonce, standing.n + 1, batch.last
        for name, begun in batch.begun.items():
            standing.counts[name] = standing.counts.get(name, 0) + begun
        for name, count in batch.counts.items():
            standing.stats[name] = standing.stats.get(name, 0) + count
        self.events.update(batch.counts)
        self.transitions.update([change.run.status for change in batch.changes if change.is_transition])
        for run_id, touched in batch.touched.items():
            self._heads.pop(run_id, None)
            # what was dropped while this was under way will be loaded anew, and these may then be old
            if standing is self._standing and _characters(touched.after.run) <= HEAD_CHARACTERS:
                self._heads[run_id] = touched.after
        while len(self._heads) > self._most_heads:
            self._heads.popitem(last=False)
        self._strikes.clear()
        self._set_aside.clear()
        self._failures.clear()
        self._unfoldable.clear()
        if self._singly_upto is not None and batch.last >= self._singly_upto:
            self._singly_upto = None
        self.commits += 1


def _now_ms() -> int:
    return round(time() * 1000)


def _characters(run: Run) -> int:
    """Count the longest texts of a run."""
    message = run.progress.message if run.progress is not None else None
    return len(run.error_message or "") + len(message or "") + sum(map(len, run.tags))


async def bring_outputs(readings: Sequence[Heard | DeadLetter], seen: Seen) -> dict[tuple[RunId, bytes], Parts]:
    """Give every event with an output the place where it lies or will lie; nothing is written yet.

    A small one is then written by the commit itself, a large one before it.

    The token of an inline output comes from its entry's id, so that a crash and a repeat write the same keys.
    """
    parts: dict[tuple[RunId, bytes], Parts] = {}
    for reading in readings:
        if not isinstance(reading, Heard):
            continue
        event = reading.entry.event
        if event.output_ref is not None:
            if (event.run_id, event.output_ref.token) in seen.gone:
                _replace_event(reading, output_ref=None)
        elif event.output is not None and event.status in TERMINAL:
            ready = await prepare(event.output, b"%d-%d" % reading.entry.entry_id)
            parts[event.run_id, ready.ref.token] = ready
            reading.view = ready.view
            _replace_event(reading, output=None, output_ref=ready.ref)
    return parts


def _replace_event(heard: Heard, **changes: object) -> None:
    event = msgspec.structs.replace(heard.entry.event, **changes)
    heard.entry = msgspec.structs.replace(heard.entry, event=event)
