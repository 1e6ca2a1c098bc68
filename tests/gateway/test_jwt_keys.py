"""Which keys of an issuer's set may check a signature."""

from typing import Any

import msgspec
import pytest
from jwt.algorithms import RSAAlgorithm

from runstore.gateway.jwt_keys import MAX_KEYS, UnusableKeySet, read_key_set
from tests.gateway.issuer import an_ec_key, an_rsa_key, jwk_of

BOTH = ("RS256", "ES256")


def read(*keys: Any, algorithms: tuple[str, ...] = BOTH) -> dict[str, str]:
    found = read_key_set(msgspec.json.encode({"keys": keys}), algorithms)
    return {key_id: key.algorithm for key_id, key in found.items()}


def test_an_rsa_key_is_for_one_algorithm_and_a_p256_key_for_the_other() -> None:
    keys = [jwk_of(an_rsa_key(), "r", use="sig", alg="RS256"), jwk_of(an_ec_key(), "e", key_ops=["verify"])]

    assert read(*keys) == {"r": "RS256", "e": "ES256"}
    assert read(*keys, algorithms=("RS256",)) == {"r": "RS256"}
    assert read(*keys, algorithms=("ES256",)) == {"e": "ES256"}


@pytest.mark.parametrize(
    "bad",
    [
        jwk_of(an_rsa_key("short", 1024), "bad"),
        jwk_of(an_ec_key("a", "P-384"), "bad"),
        jwk_of(an_ec_key("a", "P-384"), "bad", crv="P-256"),
        jwk_of(an_ec_key("a", "secp256k1"), "bad"),
        jwk_of(an_ec_key(), "bad", x="AAAA"),
        jwk_of(an_ec_key(), "bad", y=jwk_of(an_ec_key("b"), "")["y"]),
        jwk_of(an_rsa_key(), "bad", alg="RS512"),
        jwk_of(an_rsa_key(), "bad", alg="PS256"),
        jwk_of(an_rsa_key(), "bad", alg="ES256"),
        jwk_of(an_rsa_key(), "bad", use="enc"),
        jwk_of(an_rsa_key(), "bad", key_ops=["encrypt"]),
        jwk_of(an_rsa_key(), "bad", key_ops="verify"),
        jwk_of(an_rsa_key(), "bad", n=7),
        jwk_of(an_rsa_key(), "bad", n="!"),
        jwk_of(an_rsa_key(), "bad", kty="EC"),
        jwk_of(an_rsa_key(), "bad", kty="oct", k="c2VjcmV0"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "bad", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "bad"},
        {"kid": "bad"},
        {name: said for name, said in jwk_of(an_rsa_key(), "").items() if name != "kid"},
        jwk_of(an_rsa_key(), ""),
        jwk_of(an_rsa_key(), "k" * 300),
        "bad",
        None,
        [],
    ],
)
def test_a_key_that_may_check_nothing_is_left_out_and_hides_no_other(bad: Any) -> None:
    assert read(bad, jwk_of(an_rsa_key(), "good")) == {"good": "RS256"}


def test_a_private_key_that_was_published_by_mistake_serves_as_its_public_half() -> None:
    whole = RSAAlgorithm.to_jwk(an_rsa_key(), as_dict=True)

    assert read({**whole, "kid": "r", "key_ops": ["sign", "verify"]}) == {"r": "RS256"}


def test_two_keys_of_one_id_are_both_left_out() -> None:
    same = jwk_of(an_rsa_key(), "same")

    assert read(same, jwk_of(an_rsa_key("other"), "same"), jwk_of(an_ec_key(), "e")) == {"e": "ES256"}
    assert read(same, same) == {"same": "RS256"}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":', b"\xff", b"<html>", b"[" * 5000])
def test_what_is_no_key_set_is_told_from_an_empty_one(text: bytes) -> None:
    with pytest.raises(UnusableKeySet):
        read_key_set(text, BOTH)
    assert read_key_set(b'{"keys":[]}', BOTH) == {}


def test_a_set_of_too_many_keys_is_refused() -> None:
    with pytest.raises(UnusableKeySet, match="over the limit"):
        read(*[{}] * (MAX_KEYS + 1))
