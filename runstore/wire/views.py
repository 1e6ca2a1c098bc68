"""Runs as the outside sees them: the ten fields in their order, the items of a listing, the items of a history."""

from typing import Any, Final

import msgspec

from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.core.times import to_iso
from runstore.wire.schema import CursorText, RunIdText, TimeText


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as `get_run` answers it in every interface: always these ten fields, in this order."""

    run_id: RunIdText
    run_number: int | None
    project_name: str
    status: Status
    commit_sha: str | None
    started_at: TimeText | None
    finished_at: TimeText | None
    error_message: str | None
    output: msgspec.Raw | None
    truncated: bool


class OutputView(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left behind. `outputs` is any JSON."""

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    outputs: Any


class ListedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a listing: without its output, with when it was created and its tags."""

    run_id: RunIdText
    run_number: int | None
    project_name: str
    status: Status
    commit_sha: str | None
    started_at: TimeText | None
    finished_at: TimeText | None
    error_message: str | None
    truncated: bool
    created_at: TimeText
    tags: tuple[str, ...]


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing; `next_cursor` null: there is nothing after it."""

    runs: tuple[ListedRun, ...]
    next_cursor: CursorText | None


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a run's history. `reason` says why an ignored one changed nothing."""

    status: Status
    at: TimeText
    recorded_at: TimeText
    attempt: int
    ignored: bool
    reason: str | None
    worker: str | None
    error_message: str | None
    event_id: str | None


_ENCODER: Final = msgspec.json.Encoder()


def encode(view: object) -> bytes:
    """Write a view as compact UTF-8 JSON."""
    return _ENCODER.encode(view)


def view_run(run: Run, output: bytes | None) -> RunView:
    """Show a run. `output` is the capped view of its payload (None: it left none, or it is left out)."""
    is_success = run.status is Status.SUCCESS
    started_us, finished_us = run.started_us, run.finished_us
    return RunView(
        run_id=run.run_id,
        run_number=run.run_number,
        project_name=run.project_name,
        status=run.status,
        commit_sha=run.commit_sha,
        started_at=to_iso(started_us) if started_us is not None else None,
        finished_at=to_iso(finished_us) if finished_us is not None else None,
        error_message=run.error_message,
        output=msgspec.Raw(output) if is_success and output is not None else None,
        truncated=is_success and _is_truncated(run),
    )


def view_listed(run: Run) -> ListedRun:
    """Show a run in a listing."""
    return ListedRun(
        run_id=run.run_id,
        run_number=run.run_number,
        project_name=run.project_name,
        status=run.status,
        commit_sha=run.commit_sha,
        started_at=_iso(run.started_us),
        finished_at=_iso(run.finished_us),
        error_message=run.error_message,
        truncated=_is_truncated(run),
        created_at=to_iso(run.created_ms * 1000),
        tags=run.tags,
    )


def view_event(item: HistoryItem) -> EventView:
    """Show one event of a history."""
    return EventView(
        status=item.status,
        at=to_iso(item.at_us),
        recorded_at=to_iso(item.ms * 1000),
        attempt=item.attempt,
        ignored=bool(item.ignored),
        reason=item.ignored or None,
        worker=item.worker,
        error_message=item.error_message,
        event_id=item.event_id,
    )


def _iso(at_us: int | None) -> str | None:
    return to_iso(at_us) if at_us is not None else None


def _is_truncated(run: Run) -> bool:
    return run.status is Status.SUCCESS and run.output is not None and run.output.truncated
