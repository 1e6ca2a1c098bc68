"""Fetch an issuer's key set: from the configured address and no other, within limits of size and time."""

import asyncio
from typing import Final

import aiohttp

from runstore.gateway.jwt_keys import UnusableKeySet

MAX_BYTES: Final = 256 * 1024


class KeyFetcher:
    """Asks one address. Needs: `aclose` afterwards."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self) -> bytes:
        """Fetch the key set.

        Raises: UnusableKeySet; aiohttp.ClientError, OSError, TimeoutError.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            asyncio.timeout(self._timeout_s),
            self._session.get(self.url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise UnusableKeySet(f"the answer was {response.status}, not 200; redirects are not followed")
            text = bytearray()
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > MAX_BYTES:
                    raise UnusableKeySet(f"it is over the limit of {MAX_BYTES} bytes")
            return bytes(text)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
