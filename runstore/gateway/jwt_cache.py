"""An issuer's keys, kept: looked at on a timer, and for a key that is not known at a limited rate.

While the issuer is away, the keys that were seen last serve on, for a bounded time. A key that the issuer has
withdrawn is gone with the next look, and what it had signed with it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import aiohttp

from runstore.core.errors import StoreUnavailable, Unauthorized
from runstore.gateway.jwt_config import JwtTiming
from runstore.gateway.jwt_keys import Key, UnusableKeySet, read_key_set
from runstore.gateway.looks import Looks

_log: Final = logging.getLogger("runstore.gateway.jwt")


class IssuerKeys:
    """The keys of one issuer; `fetch` gets its key set, `where` says from where."""

    def __init__(
        self, fetch: Callable[[], Awaitable[bytes]], where: str, algorithms: Collection[str], timing: JwtTiming
    ) -> None:
        self._fetch = fetch
        self._where = where
        self._algorithms = frozenset(algorithms)
        self._timing = timing
        self._keys: dict[str, Key] = {}
        self._vouchers: frozenset[bytes] = frozenset()
        self._looks = Looks(self._load)
        self._allowance = float(timing.unknown_burst)
        self._counted_at = time.monotonic()

    async def key(self, key_id: str) -> Key:
        """Get a key by its id, looking for it where it is not known.

        Raises: Unauthorized where the issuer has no such key; StoreUnavailable while its keys cannot be read.
        """
        key = None if self._is_stale() else self._keys.get(key_id)
        if key is None:
            await self._look_if_allowed()
            key = self._keys.get(key_id)
        if key is None:
            raise Unauthorized("the token was signed with a key that its issuer does not have, or not any more")
        return key

    def stands(self, voucher: bytes) -> bool:
        """Whether a key is one of the issuer's, as far as is known."""
        return voucher in self._vouchers and not self._is_stale()

    async def vouchers(self, *, anew: bool) -> Collection[bytes]:
        """Return what tells the keys there are. Raises: StoreUnavailable."""
        if anew or self._is_stale():
            await self._look_if_allowed()
        return self._vouchers

    async def watch(self) -> None:
        """Look at the keys for as long as the gateway runs; a failed look is told, and tried again."""
        while True:
            try:
                await self._looks.look()
            except StoreUnavailable:
                await asyncio.sleep(self._timing.retry_s)
            else:
                await asyncio.sleep(self._timing.refresh_s)

    def _is_stale(self) -> bool:
        return self._looks.age_s >= self._timing.stale_s

    async def _look_if_allowed(self) -> None:
        """Look, unless that was done too often; a look that fails is no harm while the keys are not stale."""
        try:
            if self._looks.is_looking or self._is_allowed():
                await self._looks.look()
        except StoreUnavailable:
            pass
        if self._is_stale():
            raise _unavailable()

    def _is_allowed(self) -> bool:
        now, timing = time.monotonic(), self._timing
        gained = (now - self._counted_at) / timing.unknown_every_s
        self._allowance, self._counted_at = min(timing.unknown_burst, self._allowance + gained), now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    async def _load(self) -> None:
        try:
            keys = read_key_set(await self._fetch(), self._algorithms)
        except (UnusableKeySet, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            _log.warning("jwks_not_read", extra={"url": self._where, "reason": reason[:200]})
            raise _unavailable() from None
        if not keys:
            _log.warning("jwks_without_keys", extra={"url": self._where})
        self._keys = keys
        self._vouchers = frozenset(key.voucher for key in keys.values())


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("the keys of the tokens' issuer cannot be read at the moment: try again")
