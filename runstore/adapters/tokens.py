"""API tokens over Redis: one hash, from a token's name to its record."""

from typing import Final

import msgspec

from runstore.adapters.connection import StoreClient
from runstore.core.errors import StoreUnavailable
from runstore.ports import TokenRecord
from runstore.wire.keys import TOKENS

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(TokenRecord)


class RedisTokens:
    """API tokens by name; never the tokens themselves."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def put(self, token: TokenRecord) -> bool:
        """Store a token; false where the name is taken. Raises: StoreUnavailable."""
        return bool(await self._client.execute_command("HSETNX", TOKENS, token.name, _ENCODER.encode(token)))

    async def list_tokens(self) -> list[TokenRecord]:
        """List all tokens by name. Raises: StoreUnavailable, also where one cannot be read."""
        stored = await self._client.execute_command("HGETALL", TOKENS)
        try:
            records = [_DECODER.decode(text) for text in dict(stored).values()]
        except msgspec.MsgspecError as error:
            raise StoreUnavailable(f"a stored token cannot be read: {error}") from error
        return sorted(records, key=lambda record: record.name)

    async def revoke(self, name: str) -> bool:
        """Forget a token; false where there is none by that name. Raises: StoreUnavailable."""
        return bool(await self._client.execute_command("HDEL", TOKENS, name))
