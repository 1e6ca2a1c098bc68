"""The checker finds each broken promise in a history that was made up, and none in a sound one."""

from itertools import count
from typing import Any
from uuid import UUID

import msgspec
import pytest

from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.wire.record import Record
from tests.chaos import heard, stored
from tests.chaos.checker import check_lines
from tests.chaos.history import Line, Outcome, Seen
from tests.chaos.report import Report
from tests.chaos.stored import Rest, expected_indexes
from tests.projector.folded import fold_log

ONE, TWO = (RunId(str(UUID(int=number))) for number in (1, 2))
ISO = "2023-11-14T22:13:20+00:00"
STARTED_MS = 1_700_000_000_000


class Story:
    """A history in the making; what is told takes no time."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._clock = count(1)
        self._ops = count(1)

    def says(self, who: str, do: str, outcome: Outcome = Outcome.HEARD, **fields: Any) -> "Story":
        self.lines.append(Line(at=next(self._clock), who=who, do=do, outcome=outcome, **fields))
        return self

    def begins(self, who: str, do: str, **fields: Any) -> int:
        op = next(self._ops)
        self.says(who, do, Outcome.INVOKED, op=op, **fields)
        return op

    def calls(self, who: str, do: str, outcome: Outcome = Outcome.OK, asked: Any = None, **fields: Any) -> "Story":
        op = self.begins(who, do, **(asked or {name: fields[name] for name in ("run_id",) if name in fields}))
        return self.says(who, do, outcome, op=op, **fields)

    def publishes(self, run_id: str, status: str, event_id: str) -> "Story":
        told = {"run_id": run_id, "status": status}
        op = self.begins("p", "publish", project="forecasts", **told)
        return self.says("p", "publish", Outcome.OK, op=op, event_id=event_id, **told)

    def gets(self, run_id: str, status: str, *, after: str = "") -> "Story":
        return self.calls("g", "get", asked={"run_id": run_id, "after": after}, run_id=run_id, status=status)

    def hears(self, who: str, run_id: str, status: str) -> "Story":
        return self.says(who, "push", run_id=run_id, status=status)

    def lists(self, *run_ids: str, whole: bool = True, statuses: tuple[str, ...] = ()) -> "Story":
        asked = {"project": "forecasts", "statuses": statuses}
        seen = tuple(Seen(run_id, "running", ISO) for run_id in run_ids)
        return self.calls("l", "list", asked=asked, runs=seen, is_whole=whole, **asked)


def event_of(run_id: str, status: str, event_id: str, **fields: Any) -> dict[bytes, bytes]:
    told = {"run_id": run_id, "status": status, "event_id": event_id, "project_name": "forecasts", "at": ISO, **fields}
    return {b"event": msgspec.json.encode(told)}


def store_of(*events: dict[bytes, bytes]) -> Rest:
    """Make a sound store with these events in one partition."""
    log = {0: [(EntryId(STARTED_MS + place, 0), fields) for place, fields in enumerate(events)]}
    numbers = count(1)
    folded = fold_log(log, 1, lambda *_: next(numbers))
    records = {run_id: Record(run, 1, 0) for run_id, run in folded.runs.items()}
    return Rest(
        partitions=1,
        log=log,
        records=records,
        histories=folded.histories,
        indexes=expected_indexes(0, records.values()),
        feed={0: [(1, b"a", None), (2, b"b", b"a")]},
        left={"leases": 0},
    )


def sound() -> tuple[Story, Rest]:
    story = Story().says("s", "subscribe", run_ids=(ONE,)).says("t", "subscribe", project="forecasts")
    story.publishes(ONE, "running", "e1").hears("t", ONE, "running").gets(ONE, "running", after="running")
    story.lists(ONE).publishes(ONE, "success", "e2")
    story.hears("s", ONE, "success").hears("t", ONE, "success").gets(ONE, "success")
    return story, store_of(event_of(ONE, "running", "e1"), event_of(ONE, "success", "e2", numbered=True))


def broken(story: Story, final: Rest) -> set[str]:
    report: Report = check_lines(story.lines, final)
    return report.rules_broken


def test_a_sound_history_breaks_no_rule() -> None:
    assert broken(*sound()) == set()


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        (heard.ONE_END, lambda story: story.hears("t", ONE, "failed")),
        (heard.ONE_END, lambda story: story.gets(ONE, "timed_out")),
        (heard.READABLE, lambda story: story.gets(ONE, "running")),
        (heard.READABLE, lambda story: story.calls("g", "get", Outcome.FAILED, run_id=ONE, detail="run_not_found")),
        (heard.NO_STEP_BACK, lambda story: story.gets(TWO, "running").gets(TWO, "pending")),
        (heard.IN_ORDER, lambda story: story.hears("t", ONE, "running")),
        (heard.READ_YOUR_WRITES, lambda story: story.gets(TWO, "pending", after="running")),
        (heard.LISTED, lambda story: story.lists()),
        (heard.LISTED, lambda story: story.lists(ONE, ONE)),
        (heard.LISTED, lambda story: story.lists(statuses=("success",))),
        (heard.HEARD, lambda story: story.says("u", "subscribe", run_ids=(ONE,))),
        (heard.HEARD, lambda story: story.says("t", "watch-failed", detail="x")),
        (heard.CURSOR_KEPT, lambda story: story.calls("g", "get", Outcome.FAILED, run_id=ONE, detail="cursor_lost: x")),
        (stored.ACKNOWLEDGED, lambda story: story.publishes(ONE, "success", "e3")),
    ],
)
def test_a_history_with_one_thing_wrong_breaks_its_rule(rule: str, spoil: Any) -> None:
    story, final = sound()

    spoil(story)

    assert broken(story, final) == {rule}


def test_a_project_subscriber_who_joined_before_an_end_must_hear_it() -> None:
    story = Story().says("t", "subscribe", project="forecasts").publishes(ONE, "success", "e1")
    late = Story().publishes(ONE, "success", "e1").says("t", "subscribe", project="forecasts")
    final = store_of(event_of(ONE, "success", "e1"))

    assert broken(story, final) == {heard.HEARD}
    assert broken(late, final) == set()


def test_a_look_up_that_began_before_somebody_saw_more_may_show_less() -> None:
    story, final = sound()
    story.lines.clear()
    op = story.begins("g", "get", run_id=ONE)
    story.hears("t", ONE, "success").says("g", "get", Outcome.OK, op=op, run_id=ONE, status="running")

    assert broken(story, final) == set()


def test_a_call_of_unknown_outcome_breaks_nothing() -> None:
    story, final = sound()
    told = {"run_id": ONE, "status": "failed"}
    op = story.begins("p", "publish", project="forecasts", **told)
    story.says("p", "publish", Outcome.UNKNOWN, op=op, **told)
    story.calls("g", "get", Outcome.UNKNOWN, run_id=ONE, detail="time_out")

    assert broken(story, final) == set()


def _changed(final: Rest, **changes: Any) -> None:
    record = final.records[ONE]
    final.records[ONE] = record._replace(run=msgspec.structs.replace(record.run, **changes))


def _drop_a_hash(final: Rest) -> None:
    del final.records[ONE]
    final.indexes.clear()


def _drop_a_member(final: Rest) -> None:
    next(iter(final.indexes.values())).clear()


def _add_a_member(final: Rest) -> None:
    final.indexes[0, "s", "failed:forecasts"] = {b"x" * 16: 1}


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        (stored.FOLD, lambda final: _changed(final, ignored=1)),
        (stored.FOLD, lambda final: _changed(final, error_message="x")),
        (stored.FOLD, _drop_a_hash),
        (stored.FOLD, lambda final: final.histories[ONE].pop()),
        (stored.FOLD, lambda final: final.log[0].append((EntryId(STARTED_MS + 9, 0), {b"event": b"junk"}))),
        (stored.INDEXES, _drop_a_member),
        (stored.INDEXES, _add_a_member),
        (stored.NUMBERS, lambda final: _changed(final, run_number=2)),
        (stored.FEED, lambda final: final.feed[0].append((4, b"c", b"b"))),
        (stored.FEED, lambda final: final.feed[0].append((3, b"c", b"x"))),
        (stored.NOTHING_LEFT, lambda final: final.left.update(leases=1)),
    ],
)
def test_a_store_with_one_thing_wrong_breaks_its_rule(rule: str, spoil: Any) -> None:
    story, final = sound()

    spoil(final)

    assert rule in broken(story, final)


def test_a_run_that_never_ends_is_told() -> None:
    assert broken(Story(), store_of(event_of(ONE, "running", "e1"))) == {stored.ENDED}


def test_what_a_power_cut_may_take_is_counted_and_only_that_is_excused() -> None:
    story = Story().publishes(ONE, "success", "e1").says("chaos", "fault", detail="power redis 0.1")
    story.hears("s", TWO, "success")
    final = store_of()

    report = check_lines(story.lines, final, loses=True)
    assert report.violations == []
    assert report.counts["acknowledged events lost"] == 1

    story.lines[-2] = msgspec.structs.replace(story.lines[-2], at=10**11)
    assert check_lines(story.lines, final, loses=True).rules_broken == {stored.ACKNOWLEDGED}
