"""Builders, so that a test names only what it is about."""

from typing import Any

from runstore.core.event import Entry, EntryId, Event
from runstore.core.fold import Applied, Ignored, Refused, project
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status

RUN_ID = RunId("66666666-6666-6666-6666-666666666666")
START_MS = 1_777_370_400_000
SECOND_US = 1_000_000


def event(status: str, **fields: Any) -> Event:
    fields.setdefault("project_name", "forecasts")
    return Event(run_id=fields.pop("run_id", RUN_ID), status=Status(status), **fields)


def entry(
    status: str, *, ms: int = START_MS, seq: int = 0, may_write: frozenset[str] | None = None, **fields: Any
) -> Entry:
    return Entry(entry_id=EntryId(ms, seq), event=event(status, **fields), may_write=may_write)


def fold(*entries: Entry) -> tuple[Run | None, list[Applied | Ignored | Refused]]:
    run: Run | None = None
    outcomes: list[Applied | Ignored | Refused] = []
    for one in entries:
        outcome = project(run, one)
        outcomes.append(outcome)
        if not isinstance(outcome, Refused):
            run = outcome.run
    return run, outcomes


def folded(*entries: Entry) -> Run:
    run, _ = fold(*entries)
    assert run is not None
    return run
