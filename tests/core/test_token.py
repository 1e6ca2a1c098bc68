"""API tokens."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.errors import InvalidRequest
from runstore.core.token import RANDOM_BYTES, check_chosen, check_token_name, hash_token, is_made, make_token

secrets = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(secrets)
def test_a_made_token_has_a_shape_that_a_scanner_can_tell(random: bytes) -> None:
    token = make_token(random)

    assert len(token) == 40
    assert token.startswith("rst_")
    assert is_made(token)
    assert check_chosen(token) == token


@given(secrets, st.integers(4, 39), st.sampled_from("0aZ"))
def test_one_wrong_character_is_no_made_token(random: bytes, position: int, other: str) -> None:
    token = make_token(random)
    wrong = token[:position] + other + token[position + 1 :]

    assert is_made(wrong) == (wrong == token)


@pytest.mark.parametrize("token", ["", "rst_", "rst_" + "a" * 35, "xyz_" + "a" * 36])
def test_another_shape_is_no_made_token(token: str) -> None:
    assert not is_made(token)


def test_two_random_texts_make_two_tokens() -> None:
    assert make_token(b"a" * 32) != make_token(b"b" * 32)


def test_only_the_hash_is_stored() -> None:
    assert hash_token("secret") == sha256(b"secret").hexdigest()


@pytest.mark.parametrize("token", ["short", "a" * 19, "a" * 201, "a" * 20 + " ", "é" * 20, "a" * 20 + "/"])
def test_a_chosen_token_must_be_long_and_safe_in_a_url(token: str) -> None:
    with pytest.raises(InvalidRequest, match="20 to 200"):
        check_chosen(token)


def test_a_token_has_a_plain_name() -> None:
    assert check_token_name("ci@build-1") == "ci@build-1"
    for name in ("", "-x", "a b", "a" * 65, "x\n"):
        with pytest.raises(InvalidRequest, match="name for a token"):
            check_token_name(name)
