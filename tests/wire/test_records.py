"""Records, feed entries, cursors and views."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.cursor import Place
from runstore.core.errors import InvalidRequest
from runstore.core.event import EntryId, OutputRef, Progress
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.core.times import from_iso
from runstore.wire.cursor import decode_cursor, encode_cursor
from runstore.wire.feed import FeedChange, FeedEntry, decode_feed, encode_feed
from runstore.wire.keys import PartitionKeys, numbers
from runstore.wire.record import Record, changed_fields, decode_history, decode_record, encode_item, encode_record
from runstore.wire.views import encode, view_event, view_listed, view_run

GOLDEN = (Path(__file__).parent.parent / "vectors" / "get_run.json").read_bytes().strip()
RUN_ID = RunId("66666666-6666-6666-6666-666666666666")
REF = OutputRef(token=b"tokn", output_bytes=100, chunks=0)
times = st.integers(0, 4_000_000_000_000_000)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=100)
runs = st.builds(
    Run,
    run_id=st.just(RUN_ID),
    project_name=st.just("forecasts"),
    status=st.sampled_from(Status),
    created_ms=st.integers(0, 4_000_000_000_000),
    recorded_ms=st.integers(0, 4_000_000_000_000),
    run_number=st.none() | st.integers(1, 2**53),
    commit_sha=st.none() | st.sampled_from(["abc", "a" * 40, "A" * 40, "é" * 20]),
    started_us=st.none() | times,
    finished_us=st.none() | times,
    error_message=st.none() | texts,
    attempt=st.integers(1, 5),
    output=st.none() | st.just(REF),
    late_output=st.none() | st.just(REF),
    tags=st.lists(texts, max_size=3).map(tuple),
    progress=st.none() | st.just(Progress(fraction=0.5, message="m")),
    traceparent=st.none() | st.just("00-1"),
    fingerprint=st.sampled_from(["", "abcd"]),
    events=st.integers(0, 9),
    ignored=st.integers(0, 9),
)
records = st.builds(Record, run=runs, version=st.integers(0), page=st.integers(0))


def golden_run() -> Run:
    told: dict[str, Any] = json.loads(GOLDEN)
    return Run(
        run_id=RUN_ID,
        project_name=told["project_name"],
        status=Status.SUCCESS,
        created_ms=0,
        recorded_ms=0,
        commit_sha=told["commit_sha"],
        started_us=from_iso(told["started_at"]),
        finished_us=from_iso(told["finished_at"]),
        output=REF,
    )


@given(records)
def test_a_record_comes_back_from_its_hash(record: Record) -> None:
    assert decode_record(RUN_ID, encode_record(record)) == record


@given(records, records)
def test_setting_the_changed_fields_and_deleting_the_others_makes_the_new_record(before: Record, after: Record) -> None:
    stored = encode_record(before)

    set_fields, deleted = changed_fields(before, after)
    for name in deleted:
        del stored[name]
    stored |= set_fields

    assert decode_record(RUN_ID, stored) == after
    assert changed_fields(None, after) == (encode_record(after), [])


def test_no_hash_is_no_record() -> None:
    assert decode_record(RUN_ID, {}) is None


def test_history_comes_back_in_order_from_among_the_other_fields() -> None:
    items = [
        HistoryItem(ms=n, seq=0, status=Status.RUNNING, at_us=n, ignored="a repeat" if n else "") for n in range(12)
    ]
    fields = {b"s": b"1", b"p": b"x"} | {b"%d" % n: encode_item(item) for n, item in reversed(list(enumerate(items)))}

    assert decode_history(fields) == items


def test_the_values_of_an_ordinary_run_keep_the_hash_compact() -> None:
    fields = encode_record(Record(run=golden_run(), version=10**9, page=10**6))

    assert max(map(len, fields.values())) <= 64
    assert max(map(len, (encode_item(HistoryItem(ms=2**41, seq=9, status=Status.SUCCESS, at_us=2**51)), *fields))) <= 64


@given(st.lists(runs, max_size=3))
def test_a_feed_entry_comes_back_as_it_was_written(changed: list[Run]) -> None:
    item = HistoryItem(ms=1, seq=2, status=Status.FAILED, at_us=3, error_message="why")
    changes = tuple(FeedChange(run=run, item=item, output=b"{}") for run in changed)
    entry = FeedEntry(n=7, nonce=b"12345678", entry=(5, 6), changes=changes)

    assert decode_feed(encode_feed(entry)) == entry


places = st.builds(
    Place,
    partition=st.integers(0, 15),
    epoch=st.binary(min_size=4, max_size=4),
    n=st.integers(0, 2**40),
    nonce=st.binary(max_size=8),
    entry=st.none() | st.builds(EntryId, st.integers(0, 2**43), st.integers(0, 2**20)),
)


@given(st.lists(places, min_size=1, max_size=16, unique_by=lambda place: place.partition))
def test_a_cursor_comes_back_from_its_text(cursor: list[Place]) -> None:
    text = encode_cursor(tuple(cursor))

    assert decode_cursor(text) == tuple(cursor)
    assert text.isascii()
    assert not set(text) & set("+/= \n")


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda b: encode_cursor(()) + b.hex()))
def test_what_is_no_cursor_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no cursor"):
        decode_cursor(text)


def test_a_cursor_that_names_a_partition_twice_or_is_over_long_is_none() -> None:
    place = Place(partition=1, epoch=b"e")
    for text in (encode_cursor((place, place)), "A" * 10_000):
        with pytest.raises(InvalidRequest, match="no cursor"):
            decode_cursor(text)


def test_the_golden_answer_is_given_byte_for_byte() -> None:
    output = msgspec.json.encode(json.loads(GOLDEN)["output"])

    assert encode(view_run(golden_run(), output)) == GOLDEN


def test_only_a_success_shows_an_output() -> None:
    failed = msgspec.structs.replace(golden_run(), status=Status.FAILED)

    assert view_run(failed, b"{}").output is None
    assert not view_run(failed, b"{}").truncated


def test_a_listed_run_has_no_output_and_says_when_it_was_created() -> None:
    shown = json.loads(encode(view_listed(golden_run())))

    assert "output" not in shown
    assert (shown["created_at"], shown["tags"]) == ("1970-01-01T00:00:00+00:00", [])


def test_an_event_of_a_history_says_whether_and_why_it_was_ignored() -> None:
    item = HistoryItem(ms=0, seq=0, status=Status.RUNNING, at_us=1_500_000, ignored="a repeat")

    shown = view_event(item)

    assert (shown.ignored, shown.reason, shown.at) == (True, "a repeat", "1970-01-01T00:00:01.500000+00:00")


def test_all_keys_of_a_partition_share_its_hash_tag_and_none_is_named_twice() -> None:
    keys = PartitionKeys(3)
    plain = [value for name, value in vars(keys).items() if isinstance(value, bytes) and name != "_head"]
    own = [keys.run(b"i"), keys.output(b"i", b"t", "v"), keys.request(b"i"), keys.lease(b"i"), keys.logs(b"i")]
    project = [
        keys.ids("p", "abcd"),
        keys.page("p", 1),
        keys.pages("p"),
        keys.finished("p"),
        keys.status("p", "failed"),
        keys.queue("p"),
    ]

    names = plain + own + project

    assert all(name.startswith(b"runstore:{3}:") for name in names)
    assert len(set(names)) == len(names)
    assert keys.events == b"runstore:{3}:events"
    assert numbers("p") == b"runstore:{n:p}:numbers"
