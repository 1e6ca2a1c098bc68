"""The log folded once more, from the oldest entry that is kept, beside what the projector made of it.

A run is told by the log alone where its first event is still kept; what is older can only be left as it is. A run
number and a place in the listing are in no event: those that the store has are kept.
"""

from collections.abc import Sequence

import msgspec

from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.projection.batch import Batch, fold_batch
from runstore.projection.reading import DeadLetter, Heard
from runstore.wire.record import Record


class Fresh(msgspec.Struct, kw_only=True):
    """A run as the log tells it. `began` is its first kept event, `is_numbered` whether that asked for a number."""

    run: Run
    items: list[HistoryItem]
    began: EntryId
    is_numbered: bool


class Refold:
    """One partition's log, folded as far as it was read."""

    def __init__(self) -> None:
        self.fresh: dict[RunId, Fresh] = {}
        self.first: EntryId | None = None
        self.last: EntryId | None = None
        self.entries = 0
        self._heads: dict[RunId, Record | None] = {}

    def take(self, readings: Sequence[Heard | DeadLetter]) -> None:
        """Fold what comes next in the log. Needs: one reading at least."""
        heard = [reading.entry for reading in readings if isinstance(reading, Heard)]
        began: dict[RunId, tuple[EntryId, bool]] = {}
        for entry in heard:
            self._heads.setdefault(entry.event.run_id, None)
            began.setdefault(entry.event.run_id, (entry.entry_id, entry.event.numbered))
        batch: Batch = fold_batch(readings, heads=self._heads, counts={}, n=0, numbers={}, set_aside={})
        for run_id, touched in batch.touched.items():
            self._heads[run_id] = touched.after
            known = self.fresh.get(run_id)
            if known is None:
                # what came before it and was refused began nothing
                first = touched.items[0].entry_id if touched.items else began[run_id][0]
                numbered = any(e.event.numbered for e in heard if (e.entry_id, e.event.run_id) == (first, run_id))
                known = Fresh(run=touched.after.run, items=[], began=first, is_numbered=numbered)
                self.fresh[run_id] = known
            known.run = touched.after.run
            known.items += touched.items
        self.first = self.first or _place_of(readings[0])
        self.last = _place_of(readings[-1])
        self.entries += len(readings)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How one run of the store differs from its log: which fields, as they are and as they should be."""

    run_id: RunId
    partition: int
    what: str
    fields: tuple[str, ...] = ()


def differences_of(fresh: Fresh, live: Run | None, items: Sequence[HistoryItem], partition: int) -> list[Difference]:
    """Compare a run with what the log tells of it; a run number is taken as the store has it."""
    run_id = fresh.run.run_id
    if live is None:
        return [Difference(run_id=run_id, partition=partition, what="the run is missing")]
    wanted = renumbered(fresh.run, live.run_number)
    names = tuple(name for name in Run.__struct_fields__ if getattr(wanted, name) != getattr(live, name))
    found = []
    if names:
        found.append(Difference(run_id=run_id, partition=partition, what="fields differ", fields=names))
    if fresh.is_numbered and live.run_number is None:
        found.append(Difference(run_id=run_id, partition=partition, what="the run number is lost"))
    if list(items) != fresh.items:
        found.append(Difference(run_id=run_id, partition=partition, what="the history differs"))
    return found


def as_it_left(fresh: Fresh, left: Run, items: Sequence[HistoryItem]) -> Fresh:
    """Return what the log tells of a run up to when it left: what was told later was ignored, and is kept nowhere."""
    kept = fresh.items[: len(items)]
    if any(not item.ignored for item in fresh.items[len(items) :]):
        return fresh
    run = msgspec.structs.replace(
        fresh.run, events=left.events, ignored=left.ignored, late_output=left.late_output, progress=left.progress
    )
    return Fresh(run=run, items=kept, began=fresh.began, is_numbered=fresh.is_numbered)


def renumbered(run: Run, number: int | None) -> Run:
    """Return a run with a number that no event tells."""
    return msgspec.structs.replace(run, run_number=number)


def is_whole(fresh: Fresh, items: Sequence[HistoryItem]) -> bool:
    """Whether the log still holds a run's first event, by the history that the store has of it."""
    return not items or items[0].entry_id >= fresh.began


def _place_of(reading: Heard | DeadLetter) -> EntryId:
    return reading.entry.entry_id if isinstance(reading, Heard) else reading.entry_id
