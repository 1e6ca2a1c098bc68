"""API tokens: their hashes, looked at every few seconds, and at once where an unknown one comes."""

import asyncio
import time
from collections.abc import Collection
from hashlib import sha256
from typing import Final

import msgspec

from runstore.core.errors import StoreUnavailable
from runstore.core.principal import Principal
from runstore.gateway.context import Caller
from runstore.gateway.looks import Looks
from runstore.ports import TokenRecord, Tokens

_DOUBTFUL_S: Final = 1.0


class ApiTokens:
    """The API tokens of a store. What vouches for a caller is the token's record, as it was when the caller came."""

    def __init__(self, tokens: Tokens, *, stale_s: float, timeout_s: float) -> None:
        self._tokens = tokens
        self._stale_s = stale_s
        self._timeout_s = timeout_s
        self._by_digest: dict[bytes, Caller] = {}
        self._vouchers: frozenset[bytes] = frozenset()
        self._none_since: float | None = None
        self._looks = Looks(self._load)

    async def authenticate(self, bearer: str, digest: bytes) -> Caller | None:
        """Say whose a token is. Raises: StoreUnavailable."""
        now = time.monotonic()
        known = self.known(digest)
        if known is not None:
            return known
        # a token may be a moment old
        await self._looks.look_after(now)
        return self._by_digest.get(digest)

    def known(self, digest: bytes) -> Caller | None:
        """Say at once whose a token is; None where that has to be looked at."""
        caller = self._by_digest.get(digest)
        return caller if caller is not None and self._looks.age_s < self._stale_s else None

    def stands(self, voucher: bytes) -> bool:
        """Whether a token is stored as it was when its caller came."""
        return voucher in self._vouchers

    async def vouchers(self, *, anew: bool) -> Collection[bytes]:
        """Return the tokens there are. Raises: StoreUnavailable."""
        if anew or self._looks.age_s >= self._stale_s:
            await self._looks.look_after(time.monotonic())
        return self._vouchers

    async def reload(self) -> None:
        """Look at the stored tokens again. Raises: StoreUnavailable."""
        await self._looks.look()

    def next_look_s(self, every_s: float) -> float:
        """Say when to look again: soon where all tokens were gone at the last look."""
        return every_s if self._none_since is None else min(every_s, _DOUBTFUL_S)

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                records = await self._tokens.list_tokens()
        except TimeoutError:
            raise StoreUnavailable("the store's tokens cannot be read at the moment: try again") from None
        # A store that was emptied may get its tokens back from whoever keeps them, so that none is left is believed
        # when it stays so for a moment.
        now = time.monotonic()
        if records or not self._by_digest:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = now
        if self._none_since is None or now - self._none_since >= _DOUBTFUL_S:
            callers = [_caller(record) for record in records]
            self._by_digest = {caller.digest: caller for caller in callers}
            self._vouchers = frozenset(voucher for caller in callers for voucher in caller.vouchers)


def _caller(record: TokenRecord) -> Caller:
    principal = Principal(
        name=f"token:{record.name}",
        scopes=frozenset(record.scopes),
        projects=frozenset(record.projects) if record.projects is not None else None,
        expires_at_s=record.expires_at_s,
    )
    # what the token is and allows, not when it was stored: a store that was emptied may get the same one back
    told = (record.hash, record.name, sorted(record.scopes), record.projects and sorted(record.projects))
    voucher = sha256(msgspec.json.encode((*told, record.expires_at_s))).digest()
    return Caller(principal=principal, digest=bytes.fromhex(record.hash), vouchers=(voucher,))
