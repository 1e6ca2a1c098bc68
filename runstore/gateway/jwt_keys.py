"""An issuer's key set (RFC 7517), read: which of its keys may check a signature, and by which algorithm alone.

A key is bound to one algorithm by its own kind, whatever a token's header says: RSA to RS256, P-256 to ES256. So a
public key is never taken for the secret of an HMAC, nor a key of one kind for another.
"""

from collections.abc import Collection
from hashlib import sha256
from logging import getLogger
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from jwt.exceptions import PyJWTError

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""A longer key would take so long for each token that it blocks the others."""

MAX_KEYS: Final = 64
MAX_KEY_ID_CHARACTERS: Final = 256
_log = getLogger("runstore.gateway.jwt")
_SETS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LISTS: Final = msgspec.json.Decoder(list[Any])


class Key(NamedTuple):
    """A key that may check signatures of one algorithm. `voucher` tells it from any other."""

    public: RSAPublicKey | EllipticCurvePublicKey
    algorithm: str
    voucher: bytes


class UnusableKeySet(Exception):
    """What the issuer answered is no key set."""


def read_key_set(text: bytes, algorithms: Collection[str]) -> dict[str, Key]:
    """Read the keys of a set that may check signatures, by their ids; others are left out.

    Raises: UnusableKeySet.
    """
    try:
        listed = _LISTS.decode(_SETS.decode(text)["keys"])
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UnusableKeySet("it is no JSON object with a list of keys") from None
    if len(listed) > MAX_KEYS:
        raise UnusableKeySet(f"it has {len(listed)} keys, over the limit of {MAX_KEYS}")
    keys: dict[str, Key] = {}
    twice: set[str] = set()
    for told in listed:
        key_id, key = _read_key(told, algorithms)
        if key is None:
            continue
        if key_id in keys and keys[key_id] != key:
            twice.add(key_id)
        keys[key_id] = key
    for key_id in twice:
        _log.warning("jwks_key_left_out", extra={"kid": key_id, "reason": "two keys of the set have this id"})
        del keys[key_id]
    return keys


def _read_key(told: Any, algorithms: Collection[str]) -> tuple[str, Key | None]:
    key_id = told.get("kid") if isinstance(told, dict) else None
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARACTERS:
        return "", None
    read = _unless_other_use(told)
    key = read if isinstance(read, str) else _bind(read, told, algorithms)
    if isinstance(key, str):
        _log.info("jwks_key_left_out", extra={"kid": key_id, "reason": key})
        return key_id, None
    return key_id, key


def _unless_other_use(told: dict[str, Any]) -> PyJWK | str:
    operations = told.get("key_ops", ["verify"])
    if told.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return "it is not for signatures"
    if told.get("kty") not in {"RSA", "EC"}:
        return "it is neither RSA nor EC"
    try:
        # the private half of a key that was published by mistake is dropped with its fields
        return PyJWK({name: told[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in told})
    except (PyJWTError, ValueError, TypeError, KeyError):
        return "it cannot be read"


def _bind(read: PyJWK, told: dict[str, Any], algorithms: Collection[str]) -> Key | str:
    public = read.key
    if isinstance(public, RSAPublicKey) and MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
        algorithm = "RS256"
    elif isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        algorithm = "ES256"
    else:
        return f"it must be RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, or EC of the curve P-256"
    if told.get("alg", algorithm) != algorithm or algorithm not in algorithms:
        return "its algorithm is not one of those that are taken"
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(public=public, algorithm=algorithm, voucher=sha256(der).digest())
