"""What one entry makes of one run."""

import pytest

from runstore.core.event import OutputRef, Progress, RunRequest
from runstore.core.fold import MAX_AHEAD_US, MAX_IGNORED_KEPT, Applied, Ignored, Refused, project
from runstore.core.status import TERMINAL, Status
from tests.core.builders import RUN_ID, SECOND_US, START_MS, entry, fold, folded

REF = OutputRef(token=b"t", output_bytes=10, chunks=0)
AT = START_MS * 1000


def test_pending_running_success_is_the_whole_story() -> None:
    run = folded(
        entry("pending"),
        entry("running", ms=START_MS + 1, at_us=AT + SECOND_US, commit_sha="abc1234"),
        entry("success", ms=START_MS + 2, at_us=AT + 2 * SECOND_US, output_ref=REF),
    )

    assert (run.status, run.started_us, run.finished_us) == ("success", AT + SECOND_US, AT + 2 * SECOND_US)
    assert (run.commit_sha, run.output, run.events, run.created_ms) == ("abc1234", REF, 3, START_MS)
    assert run.is_terminal


@pytest.mark.parametrize("first", sorted(TERMINAL))
@pytest.mark.parametrize("later", list(Status))
def test_the_first_terminal_status_stays_whatever_comes_later(first: Status, later: Status) -> None:
    ended = folded(entry("running"), entry(first, error_message="why"))

    outcome = project(ended, entry(later, attempt=9, error_message="other", commit_sha="ffff"))

    assert isinstance(outcome, Ignored)
    assert (outcome.run.status, outcome.run.error_message, outcome.run.commit_sha) == (first, ended.error_message, None)


def test_a_run_may_begin_with_its_end() -> None:
    run = folded(entry("failed", error_message="no such model"))

    assert (run.status, run.started_us, run.finished_us) == ("failed", None, AT)


def test_success_has_no_error_message() -> None:
    assert folded(entry("success", error_message="never mind")).error_message is None


def test_running_again_with_a_higher_attempt_is_a_new_attempt_of_the_same_start() -> None:
    run = folded(entry("running", at_us=AT), entry("running", at_us=AT + SECOND_US, attempt=2))

    assert (run.attempt, run.started_us, run.events) == (2, AT, 2)


def test_an_older_attempt_has_nothing_more_to_say() -> None:
    _, outcomes = fold(entry("running", attempt=2), entry("success", attempt=1))

    assert isinstance(outcomes[1], Ignored)
    assert outcomes[1].item is not None
    assert outcomes[1].item.ignored == "an older attempt"


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        (("pending", "pending"), "a repeat"),
        (("running", "running"), "a repeat"),
        (("running", "pending"), "a step back"),
    ],
)
def test_what_leads_nowhere_is_ignored_with_its_reason(statuses: tuple[str, str], reason: str) -> None:
    run, outcomes = fold(*[entry(status) for status in statuses])

    assert isinstance(outcomes[1], Ignored)
    assert outcomes[1].item is not None
    assert outcomes[1].item.ignored == reason
    assert run is not None
    assert (run.status, run.ignored) == (statuses[0], 1)


def test_ignored_events_are_kept_up_to_a_limit_and_counted_beyond() -> None:
    run, outcomes = fold(entry("running"), *[entry("running", seq=n) for n in range(1, MAX_IGNORED_KEPT + 6)])

    assert run is not None
    assert run.ignored == MAX_IGNORED_KEPT + 5
    assert run.events == 1 + MAX_IGNORED_KEPT
    assert sum(isinstance(o, Ignored) and o.item is not None for o in outcomes) == MAX_IGNORED_KEPT


def test_progress_is_told_without_a_transition_and_gone_at_the_end() -> None:
    half = Progress(fraction=0.5)
    running = folded(entry("running"), entry("running", progress=half))
    outcome = project(running, entry("running", progress=half))

    assert running.progress == half
    assert isinstance(outcome, Applied)
    assert outcome.item is None
    assert folded(entry("running", progress=half), entry("success")).progress is None


def test_a_first_event_must_name_its_project() -> None:
    assert isinstance(project(None, entry("running", project_name=None)), Refused)


def test_an_entry_whose_id_is_no_time_is_refused() -> None:
    assert isinstance(project(None, entry("running", ms=2**64 - 1)), Refused)


def test_later_events_need_not_name_the_project() -> None:
    assert folded(entry("running"), entry("success", project_name=None)).status == "success"


def test_an_event_that_names_another_project_changes_nothing() -> None:
    run, outcomes = fold(entry("running"), entry("success", project_name="other"))

    assert isinstance(outcomes[1], Refused)
    assert run == folded(entry("running"))


@pytest.mark.parametrize("project_name", ["forecasts", None])
def test_a_publisher_who_may_not_write_the_project_is_refused(project_name: str | None) -> None:
    _, outcomes = fold(entry("running"), entry("success", project_name=project_name, may_write=frozenset({"other"})))

    assert isinstance(outcomes[1], Refused)


def test_a_publisher_who_may_write_the_project_is_heard() -> None:
    assert folded(entry("success", may_write=frozenset({"forecasts"}))).status == "success"


def test_the_stream_tells_the_time_where_the_worker_does_not() -> None:
    assert folded(entry("running")).started_us == AT


def test_a_worker_may_be_ten_minutes_ahead_of_the_stream_and_no_more() -> None:
    assert folded(entry("running", at_us=AT + MAX_AHEAD_US)).started_us == AT + MAX_AHEAD_US
    assert folded(entry("running", at_us=AT + MAX_AHEAD_US + 1)).started_us == AT


def test_a_run_never_finishes_before_it_started() -> None:
    run = folded(entry("running", at_us=AT + SECOND_US), entry("success", at_us=AT))

    assert run.finished_us == run.started_us == AT + SECOND_US


def test_a_success_after_worker_lost_keeps_its_output_readable() -> None:
    run = folded(entry("running"), entry("failed", error_message="worker lost"), entry("success", output_ref=REF))

    assert (run.status, run.output, run.late_output) == ("failed", None, REF)


def test_the_winners_output_is_not_displaced_by_a_late_one() -> None:
    other = OutputRef(token=b"u", output_bytes=1, chunks=0)

    assert folded(entry("success", output_ref=REF), entry("success", output_ref=other)).late_output is None


def test_the_first_tags_trace_and_number_stay() -> None:
    request = RunRequest(fingerprint="f")
    outcome = project(
        None, entry("pending", tags=("a",), traceparent="t1", numbered=True, request=request), run_number=7
    )
    assert isinstance(outcome, Applied)

    later = project(outcome.run, entry("running", tags=("b",), traceparent="t2"))

    assert isinstance(later, Applied)
    assert (later.run.tags, later.run.traceparent, later.run.run_number) == (("a",), "t1", 7)
    assert later.run.fingerprint == "f"


def test_an_output_with_a_status_that_ends_nothing_is_not_kept() -> None:
    assert folded(entry("running", output_ref=REF)).output is None


def test_history_says_who_when_and_why() -> None:
    _, outcomes = fold(
        entry("failed", ms=START_MS + 5, seq=3, worker="w1", error_message="bad", event_id="e1", attempt=2)
    )

    assert isinstance(outcomes[0], Applied)
    item = outcomes[0].item
    assert item is not None
    assert (item.entry_id, item.worker, item.error_message, item.event_id) == ((START_MS + 5, 3), "w1", "bad", "e1")
    assert (item.attempt, item.ignored, outcomes[0].run.run_id) == (2, "", RUN_ID)
