"""The cap, exact to the byte."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.cap import CAP_BYTES, Output, cap, drop_beginning, encoded_bytes
from runstore.core.status import Status


def output(stdout: str = "", stderr: str = "", outputs: bytes = b"null") -> Output:
    return Output(status=Status.SUCCESS, exit_code=0, stdout=stdout, stderr=stderr, outputs=msgspec.Raw(outputs))


def compact(value: Output) -> bytes:
    as_python: Any = msgspec.json.decode(msgspec.json.encode(value))
    return json.dumps(as_python, ensure_ascii=False, separators=(",", ":")).encode()


BARE = len(compact(output()))


def test_an_output_of_exactly_the_cap_is_left_alone() -> None:
    whole = output(stdout="x" * (CAP_BYTES - BARE))

    assert len(compact(whole)) == CAP_BYTES
    assert cap(whole) == (whole, False)


def test_one_byte_over_the_cap_costs_one_byte_of_the_logs_beginning() -> None:
    capped, truncated = cap(output(stdout="a" + "x" * (CAP_BYTES - BARE)))

    assert truncated
    assert capped.stdout == "x" * (CAP_BYTES - BARE)


def test_the_longer_log_is_cut_first_and_the_other_only_when_that_is_used_up() -> None:
    capped, _ = cap(output(stdout="o" * 50, stderr="e" * 30), BARE + 60)
    both, _ = cap(output(stdout="o" * 50, stderr="e" * 30), BARE + 10)
    other, _ = cap(output(stdout="o" * 30, stderr="e" * 50), BARE + 10)

    assert (capped.stdout, capped.stderr) == ("o" * 30, "e" * 30)
    assert (both.stdout, both.stderr) == ("", "e" * 10)
    assert (other.stdout, other.stderr) == ("o" * 10, "")


def test_outputs_are_kept_whole_where_they_fit_beside_empty_logs() -> None:
    outputs = b'{"a":"' + b"v" * 100 + b'"}'

    capped, truncated = cap(output(stdout="o" * 50, outputs=outputs), BARE - 4 + len(outputs))

    assert truncated
    assert (capped.stdout, bytes(capped.outputs)) == ("", outputs)


def test_outputs_that_do_not_fit_become_null_and_the_logs_have_their_room() -> None:
    capped, truncated = cap(output(stdout="o" * 50, outputs=b'{"a":"' + b"v" * 200 + b'"}'), BARE + 60)

    assert truncated
    assert (capped.stdout, bytes(capped.outputs)) == ("o" * 50, b"null")


def test_a_character_is_never_cut_in_two() -> None:
    capped, _ = cap(output(stdout="é" * 20), BARE + 21)

    assert capped.stdout == "é" * 10


@pytest.mark.parametrize("character", ["a", "é", "😀", "\n", "\x00", '"', "\\", "\x7f", "\u2028"])
def test_bytes_are_counted_as_compact_json_counts_them(character: str) -> None:
    assert encoded_bytes(character * 3) == len(json.dumps(character * 3, ensure_ascii=False).encode()) - 2


def test_nothing_to_drop_drops_nothing() -> None:
    assert drop_beginning("abc", 0) == ("abc", 0)


@pytest.mark.parametrize("least_bytes", [1, 65_535, 65_536, 65_537, 300_000, 450_000, 460_000])
def test_a_long_text_is_cut_where_the_sum_of_its_characters_says(least_bytes: int) -> None:
    text = "a\x00é😀\n" * 30_000  # 1 + 6 + 2 + 4 + 2 bytes, five characters
    sums = list(itertools.accumulate(encoded_bytes(character) for character in text))
    place = next((place for place, dropped in enumerate(sums, 1) if dropped >= least_bytes), len(text))

    assert encoded_bytes(text) == sums[-1] == 450_000
    assert drop_beginning(text, least_bytes) == (text[place:], sums[place - 1])


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@given(texts, texts, st.sampled_from([b"null", b'{"a":[1,2,3]}', b'{"b":"' + b"x" * 80 + b'"}']), st.integers(0, 150))
def test_the_cap_holds_and_cuts_no_more_than_needed(stdout: str, stderr: str, outputs: bytes, room: int) -> None:
    limit = BARE + room
    whole = output(stdout, stderr, outputs)

    capped, truncated = cap(whole, limit)

    size = len(compact(capped))
    assert size <= limit
    assert truncated == (len(compact(whole)) > limit)
    assert stdout.endswith(capped.stdout)
    assert stderr.endswith(capped.stderr)
    if truncated and bytes(capped.outputs) == outputs:
        next_characters = (stdout[: len(stdout) - len(capped.stdout)] or stderr[: len(stderr) - len(capped.stderr)])[
            -1:
        ]
        lost_more = max(
            encoded_bytes(c) for c in [next_characters, stderr[: len(stderr) - len(capped.stderr)][-1:]] if c
        )
        assert size + lost_more > limit
    if len(compact(output(outputs=outputs))) <= limit:
        assert bytes(capped.outputs) == outputs
