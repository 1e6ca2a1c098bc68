"""Tokens: their form, their checksum, and what an operator may choose as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.errors import InvalidRequest
from runstore.core.token import (
    COMBINATIONS,
    check_fixed_token,
    check_token_name,
    hash_token,
    is_token,
    make_token,
    mask_tokens,
)


@given(st.integers(0, COMBINATIONS - 1))
def test_every_token_that_is_made_is_one_and_has_the_same_length(number: int) -> None:
    token = make_token(number)

    assert is_token(token)
    assert len(token) == 40
    assert check_fixed_token(token) == token


@given(st.integers(0, COMBINATIONS - 1), st.integers(4, 39), st.sampled_from("0Az9"))
def test_a_mistyped_token_is_none(number: int, place: int, typed: str) -> None:
    token = make_token(number)
    mistyped = token[:place] + typed + token[place + 1 :]

    assert is_token(mistyped) == (mistyped == token)


def test_different_numbers_give_different_tokens() -> None:
    assert len({make_token(number) for number in (0, 1, 61, 62, COMBINATIONS - 1)}) == 5


@pytest.mark.parametrize("number", [-1, COMBINATIONS])
def test_a_number_that_no_token_stands_for_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        make_token(number)


@pytest.mark.parametrize("text", ["short", "x" * 19, "x" * 4097, "x" * 20 + " ", "ü" * 20, "x" * 20 + "\n", "a/b" * 10])
def test_a_fixed_token_is_long_enough_and_fit_for_a_header(text: str) -> None:
    with pytest.raises(InvalidRequest, match="URL-safe"):
        check_fixed_token(text)


@pytest.mark.parametrize("text", ["abcdefghij-._~012345", "x" * 4096, "rst_" + "0" * 36])
def test_twenty_url_safe_characters_or_more_are_a_token(text: str) -> None:
    assert check_fixed_token(text) == text


def test_the_hash_is_sha256_in_hex() -> None:
    assert hash_token("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 65, "a\x1b[2J", "ä"])
def test_a_token_has_a_name_that_can_be_shown(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name"):
        check_token_name(name)


def test_a_plain_name_is_taken() -> None:
    assert check_token_name("ci/deploy@main") == "ci/deploy@main"


def test_what_has_the_form_of_a_token_is_cut_to_its_beginning_and_nothing_else_is() -> None:
    made = make_token(7)

    assert mask_tokens(f"said {made}, and runstore.bearer.somebodys-own") == "said rst_…, and runstore.bearer.…"
    assert mask_tokens("eyJhbGciOi.eyJzdWIi.c2ln rrt_0123456789") == "eyJ… rrt_…"
    assert (
        mask_tokens("a first_attempt_of_many, rst_, burst_of_something")
        == "a first_attempt_of_many, rst_, burst_of_something"
    )
