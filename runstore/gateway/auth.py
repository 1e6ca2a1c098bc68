"""Who is asking: a bearer's text becomes a caller, through a chain of authenticators.

An authenticator says whose a credential is (None: not one of its own), and names what vouches for that: the stored
token, the issuer's key. What stays open is looked at again by asking whether that still stands.
"""

import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Protocol

from aiohttp import web
from multidict import MultiMapping

from runstore.core.errors import Unauthorized
from runstore.core.principal import Principal
from runstore.gateway.context import Caller

MAX_BEARER_CHARACTERS: Final = 8192
WEBSOCKET_BEARER: Final = "runstore.bearer."


class Authenticator(Protocol):
    """One kind of credential."""

    async def authenticate(self, bearer: str, digest: bytes) -> Caller | None:
        """Say whose a credential is; None where it is none of this kind, or not known.

        Raises: Unauthorized, with what is wrong about it; StoreUnavailable.
        """
        ...

    def known(self, digest: bytes) -> Caller | None:
        """Say at once whose a credential is; None where that has to be looked at."""
        ...

    def stands(self, voucher: bytes) -> bool:
        """Whether something of this kind that vouches for a caller still holds."""
        ...


class Authentication:
    """The chain of authenticators."""

    def __init__(self, chain: Sequence[Authenticator]) -> None:
        self._chain = tuple(chain)

    async def caller(self, request: web.Request, *, websocket: bool = False) -> Caller:
        """Say who sent a request.

        Raises: Unauthorized, StoreUnavailable.
        """
        bearer = bearer_of(request, websocket=websocket)
        digest = digest_of(bearer)
        for authenticator in self._chain:
            caller = await authenticator.authenticate(bearer, digest)
            if caller is not None:
                if _is_expired(caller.principal):
                    raise Unauthorized("the token has expired: ask for a new one")
                return caller
        raise Unauthorized("the token is not known here: it may have been revoked, or belong to another store")

    def known(self, digest: bytes) -> Caller | None:
        """Say at once who has a credential that is known to hold; None where that has to be looked at."""
        for authenticator in self._chain:
            caller = authenticator.known(digest)
            if caller is not None:
                return None if _is_expired(caller.principal) else caller
        return None

    def still_valid(self, caller: Caller) -> bool:
        """Whether what was opened by a caller's credential may stay open: neither expired nor revoked."""
        if _is_expired(caller.principal):
            return False
        return all(any(one.stands(voucher) for one in self._chain) for voucher in caller.vouchers)

    def check_still_valid(self, caller: Caller) -> None:
        """Check a caller's credential again before an answer that waited is given.

        Raises: Unauthorized.
        """
        if not self.still_valid(caller):
            raise Unauthorized("the token expired or was revoked while the answer waited")


def bearer_of(request: web.Request, *, websocket: bool = False) -> str:
    """Return the bearer's text of a request.

    Raises: Unauthorized, saying how a token is given.
    """
    if websocket and "Authorization" not in request.headers:
        offered = (
            one.strip() for line in request.headers.getall("Sec-WebSocket-Protocol", ()) for one in line.split(",")
        )
        bearers = [one[len(WEBSOCKET_BEARER) :] for one in offered if one.startswith(WEBSOCKET_BEARER)]
        if len(bearers) == 1 and 0 < len(bearers[0]) <= MAX_BEARER_CHARACTERS:
            return bearers[0]
    return read_bearer(request.headers)


def read_bearer(headers: MultiMapping[str]) -> str:
    """Return the bearer's text in the headers of a request.

    Raises: as `bearer_of`.
    """
    given = headers.getall("Authorization", ())
    if not given:
        raise Unauthorized("give a token: the header 'Authorization: Bearer …' (a token in the URL is never taken)")
    if len(given) > 1:
        raise Unauthorized("give one Authorization header, not several")
    scheme, _, bearer = given[0].strip().partition(" ")
    bearer = bearer.strip()
    if scheme.lower() != "bearer" or not bearer or " " in bearer or len(bearer) > MAX_BEARER_CHARACTERS:
        raise Unauthorized("the Authorization header must be 'Bearer' and one token")
    return bearer


def digest_of(bearer: str) -> bytes:
    """Return what a credential is known by."""
    return sha256(bearer.encode("utf-8", "surrogateescape")).digest()


def _is_expired(principal: Principal) -> bool:
    return principal.expires_at_s is not None and time.time() >= principal.expires_at_s
