"""Run tokens: made for a caller, and taken from anybody as long as what made them still holds (docs/adr/0003)."""

import asyncio
import secrets
import time
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from runstore.core.errors import StoreUnavailable, Unauthorized
from runstore.core.ids import RunId
from runstore.core.principal import Principal, Scope
from runstore.core.run_token import (
    KEY_ID_BYTES,
    MAX_S,
    SECRET_BYTES,
    RunTokenClaims,
    SignedRunToken,
    origin_of,
    read_run_token,
    write_run_token,
)
from runstore.gateway.context import Caller
from runstore.gateway.known import KnownCallers
from runstore.gateway.looks import Looks
from runstore.ports import SigningKey, SigningKeys

ROTATE_S: Final = 7 * 24 * 3600
"""How old the newest key may be before another takes its place."""

_KEEP_S: Final = ROTATE_S + MAX_S + 3600
"""How long a key is kept: until the last token that it signed has expired, and an hour for clocks that differ."""


class Vouching(Protocol):
    """A kind of credential that run tokens are made with."""

    async def vouchers(self, *, anew: bool) -> Collection[bytes]:
        """Return all that vouches for a caller of this kind at present; with `anew` after another look.

        Raises: StoreUnavailable.
        """
        ...

    def stands(self, voucher: bytes) -> bool:
        """Whether one of them still holds."""
        ...


class RunTokens:
    """The run tokens of a store: an authenticator, and what makes them."""

    def __init__(self, keys: SigningKeys, makers: Sequence[Vouching], *, stale_s: float, timeout_s: float) -> None:
        self._store = keys
        self._makers = tuple(makers)
        self._stale_s = stale_s
        self._timeout_s = timeout_s
        self._keys: dict[bytes, SigningKey] = {}
        self._looks = Looks(self._load)
        self._known = KnownCallers(self._holds)

    async def authenticate(self, bearer: str, digest: bytes) -> Caller | None:
        """Say which run a token is for.

        Raises: Unauthorized; StoreUnavailable.
        """
        token = read_run_token(bearer)
        if token is None:
            return None
        if (known := self.known(digest)) is not None:
            return known
        key = await self._key(token.claims.key_id)
        if key is None or not token.is_signed(key.secret):
            raise Unauthorized("the run token was not made by this store, or is too old: ask for a new one")
        if time.time() >= token.claims.expires_at_s:
            raise Unauthorized("the run token has expired: ask for a new one")
        voucher = await self._find_origin(token, key)
        caller = Caller(principal=_principal(token.claims), digest=digest, vouchers=(key.key_id, voucher))
        self._known.put(caller)
        return caller

    def known(self, digest: bytes) -> Caller | None:
        """Say at once which run a token is for; None where that has to be looked at."""
        return self._known.get(digest) if self._looks.age_s < self._stale_s else None

    def stands(self, voucher: bytes) -> bool:
        """Whether a key is still one of the store's."""
        return voucher in self._keys

    async def make(self, caller: Caller, run_id: RunId, expires_s: int) -> tuple[str, int]:
        """Make a run token, and say when it ends: with its maker's credential at the latest.

        Raises: StoreUnavailable.
        """
        (voucher,) = caller.vouchers
        key = await self._newest()
        expires_at_s = int(time.time()) + expires_s
        if caller.principal.expires_at_s is not None:
            expires_at_s = min(expires_at_s, int(caller.principal.expires_at_s))
        claims = RunTokenClaims(
            key_id=key.key_id, run_id=run_id, expires_at_s=expires_at_s, origin=origin_of(voucher, key.secret)
        )
        return write_run_token(claims, key.secret), expires_at_s

    async def reload(self) -> None:
        """Look at the store's keys again. Raises: StoreUnavailable."""
        await self._looks.look()

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                keys = await self._store.list_keys()
        except TimeoutError:
            raise StoreUnavailable("the store's keys cannot be read at the moment: try again") from None
        self._keys = {key.key_id: key for key in keys}

    async def _key(self, key_id: bytes) -> SigningKey | None:
        now = time.monotonic()
        if key_id not in self._keys or self._looks.age_s >= self._stale_s:
            # another gateway may have made it a moment ago
            await self._looks.look_after(now)
        return self._keys.get(key_id)

    async def _newest(self) -> SigningKey:
        newest = max(self._keys.values(), key=_by_age, default=None)
        if newest is None or newest.created_at_s + ROTATE_S <= time.time():
            candidate = secrets.token_bytes(KEY_ID_BYTES), secrets.token_bytes(SECRET_BYTES)
            keys = await self._store.renew(*candidate, rotate_s=ROTATE_S, keep_s=_KEEP_S)
            self._keys = {key.key_id: key for key in keys}
            newest = max(keys, key=_by_age)
        return newest

    async def _find_origin(self, token: SignedRunToken, key: SigningKey) -> bytes:
        for maker in self._makers:
            for anew in (False, True):
                for voucher in await maker.vouchers(anew=anew):
                    if origin_of(voucher, key.secret) == token.claims.origin:
                        return voucher
        raise Unauthorized("the token that this run token was made with does not hold any more")

    def _holds(self, voucher: bytes) -> bool:
        return self.stands(voucher) or any(maker.stands(voucher) for maker in self._makers)


def _principal(claims: RunTokenClaims) -> Principal:
    return Principal(
        name=f"run-token:{claims.run_id}",
        scopes=frozenset({Scope.READ}),
        projects=frozenset(),
        run_id=claims.run_id,
        expires_at_s=claims.expires_at_s,
    )


def _by_age(key: SigningKey) -> tuple[int, bytes]:
    return key.created_at_s, key.key_id
