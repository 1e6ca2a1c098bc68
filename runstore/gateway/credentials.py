"""Every kind of credential that a gateway takes, and what keeps each up to date."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from runstore.core.errors import StoreUnavailable
from runstore.gateway.api_tokens import ApiTokens
from runstore.gateway.auth import Authentication, Authenticator
from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import Store
from runstore.gateway.jwt_config import JwtConfig, JwtTiming, check_jwt
from runstore.gateway.run_tokens import RunTokens, Vouching

if TYPE_CHECKING:
    from runstore.gateway.jwt_cache import IssuerKeys
    from runstore.gateway.jwt_fetch import KeyFetcher
    from runstore.gateway.jwts import Jwts

_log = logging.getLogger("runstore.gateway.auth")


class Credentials:
    """API tokens, run tokens and, where an issuer is configured, its JWTs. Needs: `aclose` afterwards."""

    def __init__(
        self, store: Store, config: GatewayConfig, jwt: JwtConfig | None, timing: JwtTiming | None = None
    ) -> None:
        self._config = config
        self._issuer_keys: IssuerKeys | None = None
        self._fetcher: KeyFetcher | None = None
        limits = {"stale_s": config.tokens_stale_s, "timeout_s": config.store_timeout_s}
        self._tokens = ApiTokens(store.tokens, **limits)
        makers: list[Vouching] = [self._tokens]
        chain: list[Authenticator] = [self._tokens]
        if jwt is not None:
            jwts = self._open_jwts(check_jwt(jwt), timing or JwtTiming())
            makers.append(jwts)
            chain.insert(0, jwts)
        self.run_tokens = RunTokens(store.signing_keys, makers, **limits)
        self.auth = Authentication([self.run_tokens, *chain])

    async def load(self) -> None:
        """Look at what is stored for the first time.

        Raises: StoreUnavailable.
        """
        await self._tokens.reload()
        await self.run_tokens.reload()

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps the credentials up to date for as long as it runs."""
        every_s = self._config.tokens_refresh_s
        watches = [
            _refresh(self._tokens.reload, lambda: self._tokens.next_look_s(every_s)),
            _refresh(self.run_tokens.reload, lambda: every_s),
        ]
        return watches if self._issuer_keys is None else [*watches, self._issuer_keys.watch()]

    async def aclose(self) -> None:
        """Close the connections to the issuer."""
        if self._fetcher is not None:
            await self._fetcher.aclose()

    def _open_jwts(self, jwt: JwtConfig, timing: JwtTiming) -> "Jwts":
        # what this needs is installed only where an issuer is configured
        from runstore.gateway.jwt_cache import IssuerKeys
        from runstore.gateway.jwt_fetch import KeyFetcher
        from runstore.gateway.jwts import Jwts

        self._fetcher = KeyFetcher(jwt.keys_url(), timeout_s=timing.fetch_timeout_s)
        self._issuer_keys = IssuerKeys(self._fetcher.fetch, self._fetcher.url, jwt.algorithms, timing)
        return Jwts(self._issuer_keys, jwt.rules(), jwt.algorithms)


async def _refresh(reload: Callable[[], Awaitable[None]], next_look_s: Callable[[], float]) -> None:
    """Look again for as long as the gateway runs; a failed look is told, and tried again."""
    while True:
        await asyncio.sleep(next_look_s())
        try:
            await reload()
        except StoreUnavailable as error:
            _log.warning("tokens_not_read", extra={"reason": error.detail})
