"""Who is asking: a bearer's text becomes a caller, through a chain of authenticators.

An authenticator says whose a credential is (None: not one of its own), and later whether it still holds, so that what
stays open can be looked at again. API tokens are the first; JWTs and run tokens join the chain in `app.build`.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Protocol

from aiohttp import web

from runstore.core.errors import StoreUnavailable, Unauthorized
from runstore.core.principal import Principal
from runstore.gateway.context import Caller
from runstore.ports import TokenRecord, Tokens

MAX_BEARER_CHARACTERS: Final = 8192
WEBSOCKET_BEARER: Final = "runstore.bearer."
_RELOAD_AT_MOST_EVERY_S: Final = 0.2
_DOUBTFUL_S: Final = 1.0
_log = logging.getLogger("runstore.gateway.auth")


class Authenticator(Protocol):
    """One kind of credential."""

    async def authenticate(self, bearer: str, digest: bytes) -> Principal | None:
        """Say whose a credential is; None where it is none of this kind, or not known.

        Raises: Unauthorized, with what is wrong about it; StoreUnavailable.
        """
        ...

    def still_valid(self, caller: Caller) -> bool | None:
        """Say whether a caller's credential still holds; None where it is not of this kind."""
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
        digest = sha256(bearer.encode("utf-8", "surrogateescape")).digest()
        for authenticator in self._chain:
            principal = await authenticator.authenticate(bearer, digest)
            if principal is not None:
                if _is_expired(principal):
                    raise Unauthorized("the token has expired: ask for a new one")
                return Caller(principal=principal, digest=digest)
        raise Unauthorized("the token is not known here: it may have been revoked, or belong to another store")

    def still_valid(self, caller: Caller) -> bool:
        """Whether what was opened by a caller's credential may stay open: neither expired nor revoked."""
        if _is_expired(caller.principal):
            return False
        return next((said for one in self._chain if (said := one.still_valid(caller)) is not None), False)


class ApiTokens:
    """API tokens: their hashes, looked at every few seconds, and at once where an unknown one comes."""

    def __init__(self, tokens: Tokens, *, stale_s: float, timeout_s: float) -> None:
        self._tokens = tokens
        self._stale_s = stale_s
        self._timeout_s = timeout_s
        self._by_digest: dict[bytes, Principal] = {}
        self._loaded_at = float("-inf")
        self._asked_at = float("-inf")
        self._loading: asyncio.Task[None] | None = None
        self._none_since: float | None = None

    @property
    def are_doubtful(self) -> bool:
        """Whether all tokens were gone at the last look, and another one is to say whether they are."""
        return self._none_since is not None

    async def authenticate(self, bearer: str, digest: bytes) -> Principal | None:
        """Say whose a token is."""
        now = time.monotonic()
        known = self._by_digest.get(digest)
        if known is not None and now - self._loaded_at < self._stale_s:
            return known
        await self._look_after(now)
        return self._by_digest.get(digest)

    async def _look_after(self, now: float) -> None:
        # a token may be a moment old; many unknown ones together still cost a few looks a second
        while self._asked_at <= now:
            if self._loading is None:
                await asyncio.sleep(self._asked_at + _RELOAD_AT_MOST_EVERY_S - time.monotonic())
            await self.reload()

    def still_valid(self, caller: Caller) -> bool | None:
        """Whether a token is stored as it was when its caller came."""
        return self._by_digest.get(caller.digest) == caller.principal

    async def reload(self) -> None:
        """Look at the stored tokens again; callers at one time share one look.

        Raises: StoreUnavailable.
        """
        if self._loading is None:
            self._asked_at = time.monotonic()
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(self._loaded)
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                records = await self._tokens.list_tokens()
        except TimeoutError:
            raise StoreUnavailable("the store's tokens cannot be read at the moment: try again") from None
        self._loaded_at = now = time.monotonic()
        # A store that was emptied may get its tokens back from whoever keeps them, so that none is left is believed
        # when it stays so for a moment.
        if records or not self._by_digest:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = now
        if self._none_since is None or now - self._none_since >= _DOUBTFUL_S:
            self._by_digest = {bytes.fromhex(record.hash): _principal(record) for record in records}

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()


async def refresh(tokens: ApiTokens, every_s: float) -> None:
    """Look at the stored tokens for as long as the gateway runs; a failed look is told, and tried again."""
    while True:
        await asyncio.sleep(min(every_s, _DOUBTFUL_S) if tokens.are_doubtful else every_s)
        try:
            await tokens.reload()
        except StoreUnavailable as error:
            _log.warning("tokens_not_read", extra={"reason": error.detail})


def bearer_of(request: web.Request, *, websocket: bool = False) -> str:
    """Return the bearer's text of a request.

    Raises: Unauthorized, saying how a token is given.
    """
    given = request.headers.getall("Authorization", ())
    if len(given) > 1:
        raise Unauthorized("give one Authorization header, not several")
    if given:
        scheme, _, bearer = given[0].strip().partition(" ")
        bearer = bearer.strip()
        if scheme.lower() != "bearer" or not bearer or " " in bearer or len(bearer) > MAX_BEARER_CHARACTERS:
            raise Unauthorized("the Authorization header must be 'Bearer' and one token")
        return bearer
    if websocket:
        offered = (
            one.strip() for line in request.headers.getall("Sec-WebSocket-Protocol", ()) for one in line.split(",")
        )
        bearers = [one[len(WEBSOCKET_BEARER) :] for one in offered if one.startswith(WEBSOCKET_BEARER)]
        if len(bearers) == 1 and bearers[0]:
            return bearers[0]
    raise Unauthorized("give a token: the header 'Authorization: Bearer …' (a token in the URL is never taken)")


def _principal(record: TokenRecord) -> Principal:
    return Principal(
        name=f"token:{record.name}",
        scopes=frozenset(record.scopes),
        projects=frozenset(record.projects) if record.projects is not None else None,
        expires_at_s=record.expires_at_s,
    )


def _is_expired(principal: Principal) -> bool:
    return principal.expires_at_s is not None and time.time() >= principal.expires_at_s
