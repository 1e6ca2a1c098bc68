"""What a publisher may write into the field `event`, and what is told of what it may not."""

import json
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.errors import RunstoreError
from runstore.core.event import MAX_JSON_DEPTH, Event, OutputRef, Progress, RunRequest
from runstore.core.ids import RunId
from runstore.core.status import TERMINAL, Status
from runstore.wire.event import check_depth, compact_output, decode_event, encode_event

RUN_ID = "66666666-6666-6666-6666-666666666666"


def told(**fields: Any) -> bytes:
    return json.dumps({"run_id": RUN_ID, "status": "running", "project_name": "forecasts"} | fields).encode()


def test_the_least_event_is_a_run_id_and_a_status() -> None:
    event, unknown = decode_event(json.dumps({"run_id": RUN_ID.upper(), "status": "pending"}).encode())

    assert event == Event(run_id=RunId(RUN_ID), status=Status.PENDING)
    assert unknown == 0


def test_unknown_fields_are_kept_out_and_counted() -> None:
    event, unknown = decode_event(told(colour="red", shape=[1]))

    assert unknown == 2
    assert event == decode_event(told())[0]


def test_only_our_own_parts_may_ask_for_a_number_or_a_worker() -> None:
    text = told(numbered=True, request={"inputs": {"a": 1}})

    trusted, none = decode_event(text)
    stranger, two = decode_event(text, trusted=False)

    assert (trusted.numbered, none) == (True, 0)
    assert trusted.request is not None
    assert (stranger.numbered, stranger.request, two) == (False, None, 2)


def test_a_strangers_field_may_hold_anything_where_our_own_parts_have_one_of_that_name() -> None:
    event, unknown = decode_event(told(output_ref="x", numbered="y", request=5, unknown_fields=[]), trusted=False)

    assert event == decode_event(told())[0]
    assert unknown == 4


def test_fields_that_were_kept_out_before_are_counted_when_the_event_is_read() -> None:
    event, unknown = decode_event(told(colour="red"), trusted=False)

    assert decode_event(encode_event(event, unknown_fields=unknown)) == (event, 1)


def test_an_event_that_leaves_its_run_out_is_of_the_run_that_it_was_sent_to() -> None:
    for text in (b'{"status":"running"}', b'{"status":"running","run_id":null}'):
        event, _ = decode_event(text, trusted=False, run_id=RunId(RUN_ID))

        assert event == Event(run_id=RunId(RUN_ID), status=Status.RUNNING)


def test_inputs_as_deep_as_a_request_may_be_are_read_in_the_event_around_them() -> None:
    depth = MAX_JSON_DEPTH - 1
    inputs = b'{"a":' * depth + b"1" + b"}" * depth
    event = Event(run_id=RunId(RUN_ID), status=Status.PENDING, request=RunRequest(inputs=msgspec.Raw(inputs)))

    check_depth(b'{"inputs":' + inputs + b"}", "the body")

    assert decode_event(encode_event(event))[0] == event


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "it is empty"),
        (b"[]", "object"),
        (b"nonsense", "malformed"),
        (b"\xff", "cannot be read"),
        (b'{"status":"running"}', "run_id"),
        (told(run_id="6666"), "whole run id"),
        (told(run_id=7), r"\$.run_id"),
        (told(status="done"), "status"),
        (told(project_name=""), "project name"),
        (told(at="soon"), "ISO 8601"),
        (told(at=5), r"\$.at"),
        (told(attempt=0), "attempt"),
        (told(attempt="1"), "attempt"),
        (told(tags=["x"] * 21), "tags"),
        (told(tags=[""]), "tags"),
        (told(tags=["x" * 65]), "tags"),
        (told(progress={"fraction": 1.5}), "fraction"),
        (told(status="success", progress={"fraction": 1}), "progress"),
        (told(output="text"), "output"),
        (told(output={"stdout": 5}), "stdout"),
        (told(output={"status": "done"}), "status"),
        (told(error_message="x" * 300_000), "over the limit"),
        (b"[" * 100_000, "nested deeper"),
        (told(output={"outputs": json.loads("[" * 65 + "]" * 65)}), "nested deeper"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_a_sentence_that_names_it(text: bytes, says: str) -> None:
    with pytest.raises(RunstoreError, match=says):
        decode_event(text)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_reader_fail_otherwise(text: bytes) -> None:
    try:
        decode_event(text)
    except RunstoreError as error:
        assert error.detail


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_no_json_at_all_makes_the_reader_fail_otherwise(value: object) -> None:
    for text in (json.dumps(value).encode(), told(output=value), told(output={"outputs": value}), told(progress=value)):
        try:
            decode_event(text)
        except RunstoreError as error:
            assert error.detail


events = st.builds(
    Event,
    run_id=st.uuids().map(lambda u: RunId(str(u))),
    status=st.sampled_from(sorted(TERMINAL)),
    project_name=st.none() | st.just("forecasts"),
    at_us=st.none() | st.integers(0, 4_000_000_000_000_000),
    commit_sha=st.none() | st.just("abc"),
    attempt=st.none() | st.integers(1, 9),
    error_message=st.none() | st.text(max_size=20),
    output_ref=st.none()
    | st.builds(OutputRef, token=st.binary(max_size=9), output_bytes=st.integers(0), chunks=st.integers(0, 64)),
    event_id=st.none() | st.text(max_size=20),
    tags=st.lists(st.text(min_size=1, max_size=64), max_size=20).map(tuple),
    worker=st.none() | st.text(max_size=20),
    numbered=st.booleans(),
    request=st.none()
    | st.builds(RunRequest, inputs=st.just(msgspec.Raw(b'{"a":1}')), branch=st.just("main"), timeout_s=st.just(1.5)),
)


@given(events)
def test_an_event_comes_back_as_it_was_written(event: Event) -> None:
    again, unknown = decode_event(encode_event(event))

    assert again == event
    assert unknown == 0


def test_progress_and_trace_travel() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = Event(
        run_id=RunId(RUN_ID), status=Status.RUNNING, progress=Progress(fraction=0.4, message="m"), traceparent=trace
    )

    assert decode_event(encode_event(event)) == (event, 0)
    assert decode_event(told(traceparent="no trace"))[0].traceparent is None


def test_an_output_is_brought_into_its_five_fields_in_order() -> None:
    whole = compact_output(b'{"outputs": {"a": [1, 2.50]}, "stdout": "x", "colour": 1}', Status.SUCCESS)

    assert whole == b'{"status":"success","exit_code":null,"stdout":"x","stderr":"","outputs":{"a":[1,2.5]}}'


def test_depth_counts_brackets_outside_of_texts_only() -> None:
    check_depth(b'"' + b"[" * 500 + b'"', "this")
    check_depth(b"[]," * 500, "this")
    check_depth(rb'"\"[[[[' + b"[" * 500 + b'"', "this")
    with pytest.raises(RunstoreError, match="this is nested"):
        check_depth(b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1), "this")


def deepest(text: bytes) -> int:
    """Count as one would by hand."""
    depth = most = 0
    is_text = is_escaped = False
    for mark in text:
        if is_escaped:
            is_escaped = False
        elif is_text:
            is_escaped, is_text = mark == ord("\\"), mark != ord('"')
        elif mark == ord('"'):
            is_text = True
        else:
            depth += (mark in b"[{") - (mark in b"]}")
            most = max(most, depth)
    return most


_VALUES = st.recursive(
    st.none() | st.text(st.sampled_from('[]{}"\\a')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from('[{"\\')), inner, max_size=3),
)


@given(_VALUES, st.integers(MAX_JSON_DEPTH - 8, MAX_JSON_DEPTH + 1), st.integers(1, 9))
def test_depth_is_counted_as_one_would_by_hand(value: Any, around: int, at_once: int) -> None:
    inner = json.dumps(value).encode()
    text = b"[" * around + inner + b"]" * around + b"," + b"[" * 8 + inner + b"]" * 8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runstore.wire.event._MARKS_AT_ONCE", at_once)
        try:
            check_depth(text, "it")
        except RunstoreError:
            assert deepest(text) > MAX_JSON_DEPTH
        else:
            assert deepest(text) <= MAX_JSON_DEPTH


@pytest.mark.parametrize("piece", [b"[1],", b'["]"],', b'["[","]"],', b"[" * 60 + b"]" * 60 + b",", b'{"a\\"[":[]},'])
def test_the_depth_of_a_large_text_is_known_soon(piece: bytes) -> None:
    text = b"[" + piece * (8 * 1024 * 1024 // len(piece)) + b"1]"
    began_s = process_time()

    check_depth(text, "it")

    assert process_time() - began_s < 1


def test_the_depth_of_a_log_full_of_brackets_is_known_at_once() -> None:
    text = b'{"stdout":"' + b'[info] {\\"a\\": 1} ' * 1_500_000 + b'"}'

    began_s = process_time()
    check_depth(text, "it")

    assert process_time() - began_s < 1.5
