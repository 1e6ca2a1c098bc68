"""A batch of entries folded: what became of each run, what is told to the feed, what goes to the dead letters. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from runstore.core.event import EntryId, OutputRef, RunRequest
from runstore.core.fold import Applied, Ignored, Refused, project
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.projection.reading import DEAD_EVENT_BYTES, DeadLetter, Heard
from runstore.wire.feed import INLINE_OUTPUT_BYTES, FeedChange
from runstore.wire.keys import PAGE_RUNS
from runstore.wire.record import Record

SET_ASIDE: Final = "the run is set aside: "


class Touched(msgspec.Struct, kw_only=True, gc=False):
    """One run of the batch: its record before and after, its new history, and the request that began it."""

    before: Record | None
    after: Record
    items: list[HistoryItem]
    request: RunRequest | None = None


class Batch(msgspec.Struct, kw_only=True):
    """What a batch of entries comes to. `abandoned` are the outputs that no run keeps."""

    last: EntryId
    changes: list[FeedChange] = msgspec.field(default_factory=list)
    touched: dict[RunId, Touched] = msgspec.field(default_factory=dict)
    dead: list[DeadLetter] = msgspec.field(default_factory=list)
    numbered: list[tuple[str, RunId]] = msgspec.field(default_factory=list)
    begun: Counter[str] = msgspec.field(default_factory=Counter)
    told: list[tuple[RunId, OutputRef]] = msgspec.field(default_factory=list)
    counts: Counter[str] = msgspec.field(default_factory=Counter)

    def abandoned(self) -> list[tuple[RunId, OutputRef]]:
        """Return the outputs that were told of and that no run keeps."""
        return [(run_id, ref) for run_id, ref in self.told if not self._keeps(run_id, ref.token)]

    def _keeps(self, run_id: RunId, token: bytes) -> bool:
        run = self.touched[run_id].after.run
        return (run.output is not None and run.output.token == token) or (
            run.late_output is not None and run.late_output.token == token
        )


def fold_batch(
    readings: Sequence[Heard | DeadLetter],
    *,
    heads: Mapping[RunId, Record | None],
    counts: Mapping[str, int],
    n: int,
    numbers: Mapping[RunId, int],
    set_aside: Mapping[RunId, str],
    left: frozenset[RunId] = frozenset(),
) -> Batch:
    """Fold a batch for the commit numbered `n`.

    `counts` are the runs that each project has so far, `numbers` the run numbers that were reserved, `left` runs that
    are not here any more, and which nothing changes.

    Needs: `heads` to know every run of the batch (None: it is new), in a batch of one reading at least.
    """
    last = readings[-1]
    batch = Batch(last=last.entry.entry_id if isinstance(last, Heard) else last.entry_id)
    for reading in readings:
        if isinstance(reading, DeadLetter):
            _bury(batch, reading)
        elif reading.entry.event.run_id in left:
            batch.counts.update(("ignored", "late"))
        elif reading.entry.event.run_id in set_aside:
            _bury(batch, _dead(reading, SET_ASIDE + set_aside[reading.entry.event.run_id]))
        else:
            _fold_one(batch, reading, heads=heads, counts=counts, n=n, numbers=numbers)
    return batch


def _fold_one(
    batch: Batch,
    heard: Heard,
    *,
    heads: Mapping[RunId, Record | None],
    counts: Mapping[str, int],
    n: int,
    numbers: Mapping[RunId, int],
) -> None:
    event = heard.entry.event
    touched = batch.touched.get(event.run_id)
    before = touched.after if touched is not None else heads[event.run_id]
    run = before.run if before is not None else None
    outcome = project(run, heard.entry, run_number=numbers.get(event.run_id) if event.numbered else None)
    if heard.unknown_fields:
        batch.counts["unknown_fields"] += heard.unknown_fields
    if isinstance(outcome, Refused):
        _bury(batch, _dead(heard, outcome.reason, is_refused=True))
        return
    batch.counts["applied" if isinstance(outcome, Applied) else "ignored"] += 1
    if touched is None:
        page = before.page if before is not None else _begin(batch, outcome.run, counts)
        touched = batch.touched[event.run_id] = Touched(before=before, after=Record(outcome.run, n, page), items=[])
        if before is None:
            touched.request = event.request
            if event.numbered:
                batch.numbered.append((outcome.run.project_name, event.run_id))
    else:
        touched.after = Record(outcome.run, n, touched.after.page)
    if outcome.item is not None:
        touched.items.append(outcome.item)
    if event.output_ref is not None:
        batch.told.append((event.run_id, event.output_ref))
    _tell(batch, heard, outcome)


def _begin(batch: Batch, run: Run, counts: Mapping[str, int]) -> int:
    place = counts.get(run.project_name, 0) + batch.begun[run.project_name]
    batch.begun[run.project_name] += 1
    return place // PAGE_RUNS


def _tell(batch: Batch, heard: Heard, outcome: Applied | Ignored) -> None:
    if isinstance(outcome, Ignored) and outcome.item is None:
        return
    view = heard.view if isinstance(outcome, Applied) and outcome.run.is_terminal else None
    batch.changes.append(
        FeedChange(
            run=outcome.run,
            item=outcome.item,
            output=view if view is not None and len(view) <= INLINE_OUTPUT_BYTES else None,
            is_transition=isinstance(outcome, Applied) and outcome.item is not None,
        )
    )


def _bury(batch: Batch, letter: DeadLetter) -> None:
    batch.dead.append(letter)
    batch.counts["refused" if letter.is_refused else "unreadable"] += 1


def _dead(heard: Heard, reason: str, *, is_refused: bool = False) -> DeadLetter:
    text = heard.text[:DEAD_EVENT_BYTES]
    return DeadLetter(entry_id=heard.entry.entry_id, text=text, reason=reason, is_refused=is_refused)


def is_waiting(touched: Touched) -> bool:
    """Whether a run began in the batch by a request and waits for a worker at the end of it."""
    return touched.request is not None and touched.after.run.status is Status.PENDING
