"""Run tokens: `rrt_`, and in base64url what they allow and until when, signed with a key that the store keeps.

A run token is for one run, read-only and short-lived. It is stored nowhere: whoever has the store's key can check it.
`origin` says which credential it was made with, to nobody but those who have the key: once that credential does not
hold any more, the run token does not either.
"""

import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from runstore.core.ids import RunId, from_bytes, to_bytes

PREFIX: Final = "rrt_"
KEY_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
DEFAULT_S: Final = 15 * 60
MAX_S: Final = 24 * 3600
"""The longest that a run token may hold: keys are kept for that long after they were last used to sign."""

_TOLD: Final = struct.Struct(f">{KEY_ID_BYTES}s16sQ16s")
_MAC_BYTES: Final = 32
_FORM: Final = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{{(_TOLD.size + _MAC_BYTES) * 4 // 3 + 1}}})")


class RunTokenClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a run token says: which key signed it, the run, when it ends (UNIX time), and what it was made with."""

    key_id: bytes
    run_id: RunId
    expires_at_s: int
    origin: bytes


class SignedRunToken(msgspec.Struct, frozen=True, kw_only=True):
    """A run token as it was read: nothing of it is true before `is_signed` said so."""

    claims: RunTokenClaims
    mac: bytes

    def is_signed(self, secret: bytes) -> bool:
        """Whether it was signed with a key's secret."""
        return hmac.compare_digest(self.mac, _mac(_pack(self.claims), secret))


def write_run_token(claims: RunTokenClaims, secret: bytes) -> str:
    """Write and sign a run token."""
    told = _pack(claims)
    return PREFIX + urlsafe_b64encode(told + _mac(told, secret)).rstrip(b"=").decode()


def read_run_token(text: str) -> SignedRunToken | None:
    """Read a run token (None: the text has not the form of one)."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    packed = urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
    key_id, run_id, expires_at_s, origin = _TOLD.unpack(packed[: _TOLD.size])
    claims = RunTokenClaims(key_id=key_id, run_id=from_bytes(run_id), expires_at_s=expires_at_s, origin=origin)
    return SignedRunToken(claims=claims, mac=packed[_TOLD.size :])


def origin_of(voucher: bytes, secret: bytes) -> bytes:
    """Write what a run token was made with, so that only those who have the key can tell what that was."""
    return hmac.digest(secret, b"origin\0" + voucher, "sha256")[:16]


def _pack(claims: RunTokenClaims) -> bytes:
    return _TOLD.pack(claims.key_id, to_bytes(claims.run_id), claims.expires_at_s, claims.origin)


def _mac(told: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, b"run token\0" + told, "sha256")
