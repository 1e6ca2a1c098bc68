"""A log folded by the core alone, to compare with what the projector made of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from runstore.core.event import EntryId, OutputRef
from runstore.core.fold import Refused, project
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.projection.reading import Heard, read_entry

Log = Mapping[int, Sequence[tuple[EntryId, Mapping[bytes, bytes]]]]


class Folded(msgspec.Struct, kw_only=True):
    """What a log comes to."""

    runs: dict[RunId, Run] = msgspec.field(default_factory=dict)
    histories: dict[RunId, list[HistoryItem]] = msgspec.field(default_factory=dict)
    event_ids: set[str] = msgspec.field(default_factory=set)
    events: int = 0
    dead: int = 0


def fold_log(log: Log, partitions: int, number: Callable[[RunId, Run], int | None]) -> Folded:
    """Fold the log of every partition. `number` gives a run its run number, where its first event asked for one.

    A terminal event's output lies where the projector will put it.
    """
    folded = Folded()
    for partition, entries in log.items():
        for entry_id, fields in entries:
            heard = read_entry(entry_id, fields, partition=partition, partitions=partitions)
            if not isinstance(heard, Heard) or not _fold(folded, heard, number):
                folded.dead += 1
    return folded


def _fold(folded: Folded, heard: Heard, number: Callable[[RunId, Run], int | None]) -> bool:
    event: Any = heard.entry.event
    if event.output is not None:
        ref = OutputRef(token=str(heard.entry.entry_id).encode(), output_bytes=len(event.output), chunks=0)
        event = msgspec.structs.replace(event, output=None, output_ref=ref)
    before = folded.runs.get(event.run_id)
    outcome = project(before, msgspec.structs.replace(heard.entry, event=event))
    if isinstance(outcome, Refused):
        return False
    after = outcome.run
    if before is None and event.numbered:
        after = msgspec.structs.replace(after, run_number=number(event.run_id, after))
    folded.events += 1
    folded.runs[event.run_id] = after
    if event.event_id:
        folded.event_ids.add(event.event_id)
    if outcome.item is not None:
        folded.histories.setdefault(event.run_id, []).append(outcome.item)
    return True
