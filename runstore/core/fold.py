"""The fold: what one entry makes of one run.

The rule, whole: an entry is refused if it is about another project, or its publisher may not write the run's; it is
ignored if the run has ended, if it comes from an older attempt, or if it leads nowhere in the table of transitions;
else it is applied. Order is the stream's. A worker's clock (`at`) is shown as told, except that one more than ten
minutes ahead of the stream is replaced by it and a run never finishes before it started.
"""

from typing import Final

import msgspec

from runstore.core.event import Entry, Event
from runstore.core.run import HistoryItem, Run
from runstore.core.status import TERMINAL, TRANSITIONS, Status

MAX_AHEAD_US: Final = 10 * 60 * 1_000_000
MAX_IGNORED_KEPT: Final = 32
MAX_STREAM_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: an entry with a later id was made by hand, and has no time to show."""


class Applied(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The entry changed the run. `item` is None where only progress was told, which history does not keep."""

    run: Run
    item: HistoryItem | None


class Ignored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The entry changed nothing; `run` counts it, and `item` is None where the history has enough of such."""

    run: Run
    item: HistoryItem | None


class Refused(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The entry breaks a rule and goes to the dead letters."""

    reason: str


Outcome = Applied | Ignored | Refused


def project(run: Run | None, entry: Entry, *, run_number: int | None = None) -> Outcome:
    """Fold one entry into a run (None: nothing was heard of it yet).

    `run_number` is the number reserved for a run whose first event asked for one.
    """
    event = entry.event
    refusal = _refusal(run, entry)
    if refusal:
        return Refused(reason=refusal)
    if run is None:
        return _begin(entry, run_number)
    reason = _why_ignored(run, event)
    if reason:
        return _ignore(run, entry, reason)
    if event.status is run.status and not _is_new_attempt(run, event):
        return Applied(run=msgspec.structs.replace(run, progress=event.progress), item=None)
    return _advance(run, entry)


def _refusal(run: Run | None, entry: Entry) -> str:
    if entry.entry_id.ms > MAX_STREAM_MS:
        return "the entry's id lies after the year 9999"
    named = entry.event.project_name
    if run is None and named is None:
        return "the first event of a run must have a project_name"
    if run is not None and named is not None and named != run.project_name:
        return "the run belongs to another project than the event names"
    owner = run.project_name if run is not None else named
    if entry.may_write is not None and owner not in entry.may_write:
        return "the publisher's token may not write the run's project"
    return ""


def _is_new_attempt(run: Run, event: Event) -> bool:
    return event.status is Status.RUNNING and event.attempt is not None and event.attempt > run.attempt


def _why_ignored(run: Run, event: Event) -> str:
    if run.is_terminal:
        return "the run had ended"
    if event.attempt is not None and event.attempt < run.attempt:
        return "an older attempt"
    if event.status is run.status:
        if _is_new_attempt(run, event) or (event.status is Status.RUNNING and event.progress is not None):
            return ""
        return "a repeat"
    return "" if event.status in TRANSITIONS[run.status] else "a step back"


def _begin(entry: Entry, run_number: int | None) -> Applied:
    event = entry.event
    assert event.project_name is not None
    blank = Run(
        run_id=event.run_id,
        project_name=event.project_name,
        status=Status.PENDING,
        created_ms=entry.entry_id.ms,
        recorded_ms=entry.entry_id.ms,
        run_number=run_number,
        fingerprint=event.request.fingerprint if event.request else "",
    )
    return _advance(blank, entry)


def _advance(run: Run, entry: Entry) -> Applied:
    event, at_us = entry.event, told_at(entry)
    ended = event.status in TERMINAL
    running = event.status is Status.RUNNING
    started_us = at_us if running and run.started_us is None else run.started_us
    item = _item(entry, "", run.attempt)
    return Applied(
        run=msgspec.structs.replace(
            run,
            status=event.status,
            recorded_ms=entry.entry_id.ms,
            commit_sha=event.commit_sha or run.commit_sha,
            started_us=started_us,
            finished_us=max(at_us, started_us or at_us) if ended else None,
            error_message=event.error_message if ended and event.status is not Status.SUCCESS else None,
            attempt=item.attempt,
            output=event.output_ref if ended else None,
            tags=run.tags or event.tags,
            progress=event.progress if running else None,
            traceparent=run.traceparent or event.traceparent,
            events=run.events + 1,
        ),
        item=item,
    )


def _ignore(run: Run, entry: Entry, reason: str) -> Ignored:
    late = run.late_output
    if run.is_terminal and run.output is None and late is None and entry.event.status in TERMINAL:
        late = entry.event.output_ref
    kept = run.ignored < MAX_IGNORED_KEPT
    return Ignored(
        run=msgspec.structs.replace(
            run, late_output=late, ignored=run.ignored + 1, events=run.events + (1 if kept else 0)
        ),
        item=_item(entry, reason, run.attempt) if kept else None,
    )


def _item(entry: Entry, ignored: str, attempt: int) -> HistoryItem:
    event = entry.event
    return HistoryItem(
        ms=entry.entry_id.ms,
        seq=entry.entry_id.seq,
        status=event.status,
        at_us=told_at(entry),
        attempt=event.attempt if event.attempt is not None else attempt,
        ignored=ignored,
        worker=event.worker,
        error_message=event.error_message if event.status is not Status.SUCCESS else None,
        event_id=event.event_id,
    )


def told_at(entry: Entry) -> int:
    """Return when the event happened: the publisher's word, unless it lies too far ahead of the stream.

    Units: microseconds since 1970 UTC.
    """
    stream_us = entry.entry_id.ms * 1000
    at_us = entry.event.at_us
    return stream_us if at_us is None or at_us > stream_us + MAX_AHEAD_US else at_us
