"""Every kind of credential that a gateway takes, and what keeps each up to date."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runstore.core.errors import StoreUnavailable
from runstore.gateway.api_tokens import ApiTokens
from runstore.gateway.auth import Authentication
from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import Store
from runstore.gateway.run_tokens import RunTokens

_log = logging.getLogger("runstore.gateway.auth")


class Credentials:
    """API tokens, and run tokens."""

    def __init__(self, store: Store, config: GatewayConfig) -> None:
        self._config = config
        limits = {"stale_s": config.tokens_stale_s, "timeout_s": config.store_timeout_s}
        self._tokens = ApiTokens(store.tokens, **limits)
        self.run_tokens = RunTokens(store.signing_keys, [self._tokens], **limits)
        self.auth = Authentication([self.run_tokens, self._tokens])

    async def load(self) -> None:
        """Look at what is stored for the first time.

        Raises: StoreUnavailable.
        """
        await self._tokens.reload()
        await self.run_tokens.reload()

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps the credentials up to date for as long as it runs."""
        every_s = self._config.tokens_refresh_s
        return [
            _refresh(self._tokens.reload, lambda: self._tokens.next_look_s(every_s)),
            _refresh(self.run_tokens.reload, lambda: every_s),
        ]


async def _refresh(reload: Callable[[], Awaitable[None]], next_look_s: Callable[[], float]) -> None:
    """Look again for as long as the gateway runs; a failed look is told, and tried again."""
    while True:
        await asyncio.sleep(next_look_s())
        try:
            await reload()
        except StoreUnavailable as error:
            _log.warning("tokens_not_read", extra={"reason": error.detail})
