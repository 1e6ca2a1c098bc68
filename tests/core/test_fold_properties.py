"""Any log folds to what a plain reading of the contract gives; a terminal run never changes."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.event import Entry, EntryId, Event, OutputRef, Progress
from runstore.core.fold import Ignored, Refused, project
from runstore.core.run import Run
from runstore.core.status import TERMINAL, Status
from runstore.wire.views import view_run
from tests.core.builders import RUN_ID, START_MS, fold

MINUTE_US = 60_000_000
events = st.builds(
    Event,
    run_id=st.just(RUN_ID),
    status=st.sampled_from(Status),
    project_name=st.sampled_from(["forecasts", "forecasts", "forecasts", "other", None]),
    at_us=st.none() | st.integers(START_MS * 1000 - 20 * MINUTE_US, START_MS * 1000 + 20 * MINUTE_US),
    commit_sha=st.sampled_from([None, "abc1234", "def5678"]),
    attempt=st.sampled_from([None, None, 1, 2, 3]),
    error_message=st.sampled_from([None, "why"]),
    output_ref=st.sampled_from([None, OutputRef(token=b"t", output_bytes=3, chunks=0)]),
    progress=st.sampled_from([None, None, Progress(fraction=0.5)]),
    tags=st.sampled_from([(), ("a",)]),
)
may_write = st.sampled_from([None, None, None, frozenset({"forecasts"}), frozenset({"other"})])


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A log: events told once, several times, late and out of order, at growing places of a stream."""
    told = draw(st.lists(events, max_size=8))
    repeated = draw(st.lists(st.sampled_from(told), max_size=8)) if told else []
    order = draw(st.permutations(told + repeated))
    steps = draw(st.lists(st.integers(0, 700_000), min_size=len(order), max_size=len(order)))
    entries, ms = [], START_MS
    for seq, (one, step) in enumerate(zip(order, steps, strict=True)):
        ms += step
        entries.append(Entry(entry_id=EntryId(ms, seq), event=one, may_write=draw(may_write)))
    return entries


def reference(entries: list[Entry]) -> dict[str, Any] | None:
    """Fold as plainly as the contract is written: a dictionary, one event after the other."""
    run: dict[str, Any] | None = None
    for one in entries:
        told, now_us = one.event, one.entry_id.ms * 1000
        owner = run["project_name"] if run else told.project_name
        if owner is None or told.project_name not in {None, owner}:
            continue
        if one.may_write is not None and owner not in one.may_write:
            continue
        if run is None:
            run = {"project_name": owner, "status": None, "attempt": 1, "commit_sha": None, "started": None}
            run |= {"finished": None, "error": None, "output": None}
        at = now_us if told.at_us is None or told.at_us - now_us > 10 * MINUTE_US else told.at_us
        attempt = told.attempt or run["attempt"]
        if run["status"] in TERMINAL or attempt < run["attempt"]:
            continue
        order = ["pending", "running"]
        if told.status in order:
            is_new_attempt = told.status == run["status"] == "running" and attempt > run["attempt"]
            behind = run["status"] is not None and order.index(told.status) <= order.index(run["status"])
            if behind and not is_new_attempt:
                continue
        run |= {"status": told.status, "attempt": attempt, "commit_sha": told.commit_sha or run["commit_sha"]}
        if told.status == "running" and run["started"] is None:
            run["started"] = at
        if told.status in TERMINAL:
            run["finished"] = at if run["started"] is None else max(at, run["started"])
            run["error"] = None if told.status == "success" else told.error_message
            run["output"] = told.output_ref
    return run


def plain(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "project_name": run.project_name,
        "status": run.status,
        "attempt": run.attempt,
        "commit_sha": run.commit_sha,
        "started": run.started_us,
        "finished": run.finished_us,
        "error": run.error_message,
        "output": run.output,
    }


@given(logs())
def test_any_log_folds_to_what_a_plain_reference_gives(entries: list[Entry]) -> None:
    run, _ = fold(*entries)

    assert plain(run) == reference(entries)


@given(logs(), logs())
def test_a_terminal_run_never_changes(before: list[Entry], after: list[Entry]) -> None:
    run, _ = fold(*before)
    if run is None or not run.is_terminal:
        return
    shown = view_run(run, b"{}")

    for one in after:
        outcome = project(run, one)
        assert isinstance(outcome, Ignored | Refused)
        run = outcome.run if isinstance(outcome, Ignored) else run

    assert view_run(run, b"{}") == shown


@given(logs())
def test_a_log_applied_twice_gives_the_same_run_as_once(entries: list[Entry]) -> None:
    once, _ = fold(*entries)
    if once is None or not once.is_terminal:
        return
    again = [msgspec.structs.replace(one, entry_id=EntryId(START_MS * 2, n)) for n, one in enumerate(entries)]

    twice, _ = fold(*entries, *again)

    assert plain(twice) == plain(once)


@given(logs())
def test_every_entry_is_applied_ignored_or_refused_and_only_kept_ones_are_numbered(entries: list[Entry]) -> None:
    run, outcomes = fold(*entries)
    kept = [o for o in outcomes if not isinstance(o, Refused) and o.item is not None]

    assert len(outcomes) == len(entries)
    assert (run.events if run else 0) == len(kept)
