"""JWTs as credentials: the header is held to what is configured, the signature checked, the claims read.

A token's header is a stranger's word until the signature is checked, so it only picks one of the issuer's own keys by
id: `jku`, `x5u`, `jwk` and the like are never followed.
"""

import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Collection
from typing import Any, Final

import msgspec
from jwt import PyJWS
from jwt.exceptions import PyJWTError

from runstore.core.claims import ClaimRules, read_claims
from runstore.core.errors import Unauthorized
from runstore.gateway.context import Caller
from runstore.gateway.jwt_cache import IssuerKeys
from runstore.gateway.jwt_keys import MAX_KEY_ID_CHARACTERS, Key
from runstore.gateway.known import KnownCallers

_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


class Jwts:
    """The JWTs of one issuer. What vouches for a caller is the key that signed the token."""

    def __init__(self, keys: IssuerKeys, rules: ClaimRules, algorithms: Collection[str]) -> None:
        self._keys = keys
        self._rules = rules
        self._algorithms = tuple(algorithms)
        self._jws = PyJWS(algorithms=self._algorithms)
        self._known = KnownCallers(keys.stands)

    async def authenticate(self, bearer: str, digest: bytes) -> Caller | None:
        """Say whose a token is.

        Raises: Unauthorized; StoreUnavailable while the issuer's keys cannot be read.
        """
        known = self.known(digest)
        if known is not None:
            return known
        header = _read_header(bearer)
        if header is None:
            return None
        key_id = _check_header(header, self._algorithms)
        key = await self._keys.key(key_id)
        if header["alg"] != key.algorithm:
            raise Unauthorized(f"the token's key is for {key.algorithm}, and its alg says {header['alg']}")
        principal = read_claims(self._verify(bearer, key), self._rules, time.time())
        caller = Caller(principal=principal, digest=digest, vouchers=(key.voucher,))
        self._known.put(caller)
        return caller

    def known(self, digest: bytes) -> Caller | None:
        """Say at once whose a token is; None where that has to be looked at."""
        return self._known.get(digest)

    def stands(self, voucher: bytes) -> bool:
        """Whether the issuer still has a key."""
        return self._keys.stands(voucher)

    async def vouchers(self, *, anew: bool) -> Collection[bytes]:
        """Return the keys there are. Raises: StoreUnavailable."""
        return await self._keys.vouchers(anew=anew)

    def _verify(self, bearer: str, key: Key) -> dict[str, Any]:
        try:
            payload = self._jws.decode(bearer, key=key.public, algorithms=[key.algorithm])
        except (PyJWTError, ValueError, TypeError):
            raise Unauthorized("the token's signature does not match: it was changed, cut or made up") from None
        try:
            return _OBJECT.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unauthorized("the token's claims are no JSON object") from None


def _read_header(bearer: str) -> dict[str, Any] | None:
    """Read the header of a token (None: it has not the form of a JWT, and may be another kind of token)."""
    match = _FORM.fullmatch(bearer)
    if match is None:
        return None
    try:
        return _OBJECT.decode(urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None


def _check_header(header: dict[str, Any], algorithms: Collection[str]) -> str:
    """Check what a header says, and return the id of the key that it names.

    Raises: Unauthorized.
    """
    if header.get("alg") not in algorithms:
        raise Unauthorized(f"the token's alg must be {' or '.join(algorithms)}")
    if "crit" in header or "b64" in header:
        raise Unauthorized("the token's header asks for an extension (crit, b64) that is not known here")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise Unauthorized("the token's typ must be JWT or at+jwt: another kind of token is no access token")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARACTERS:
        raise Unauthorized("the token's header must name the key that signed it (kid)")
    return key_id
