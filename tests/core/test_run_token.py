"""Run tokens: read as they were written, and signed by nobody but who has the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.ids import from_bytes
from runstore.core.run_token import (
    PREFIX,
    RunTokenClaims,
    origin_of,
    read_run_token,
    write_run_token,
)

SECRET, OTHER = b"k" * 32, b"o" * 32
CLAIMS = RunTokenClaims(
    key_id=b"12345678", run_id=from_bytes(b"r" * 16), expires_at_s=1_800_000_000, origin=origin_of(b"maker", SECRET)
)


@given(
    key_id=st.binary(min_size=8, max_size=8),
    run_id=st.binary(min_size=16, max_size=16),
    expires_at_s=st.integers(0, 2**63),
    origin=st.binary(min_size=16, max_size=16),
)
def test_a_token_is_read_as_it_was_written(key_id: bytes, run_id: bytes, expires_at_s: int, origin: bytes) -> None:
    claims = RunTokenClaims(key_id=key_id, run_id=from_bytes(run_id), expires_at_s=expires_at_s, origin=origin)

    token = read_run_token(write_run_token(claims, SECRET))

    assert token is not None
    assert token.claims == claims
    assert token.is_signed(SECRET)
    assert not token.is_signed(OTHER)


def test_a_token_with_any_bit_changed_is_not_signed() -> None:
    text = write_run_token(CLAIMS, SECRET)
    # the last character has two bits that mean nothing
    for place in range(len(PREFIX), len(text) - 1):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        token = read_run_token(changed)

        assert token is not None
        assert not token.is_signed(SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PREFIX,
        "rst_" + "A" * 107,
        PREFIX + "A" * 106,
        PREFIX + "A" * 108,
        PREFIX + "ä" * 107,
        PREFIX + "A" * 106 + "\n",
    ],
)
def test_what_has_not_the_form_of_one_is_none(text: str) -> None:
    assert read_run_token(text) is None


def test_a_token_can_be_a_subprotocol_and_names_nothing_of_what_made_it() -> None:
    text = write_run_token(CLAIMS, SECRET)

    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert origin_of(b"maker", SECRET) != origin_of(b"maker", OTHER)
    assert origin_of(b"maker", SECRET) != origin_of(b"another", SECRET)
