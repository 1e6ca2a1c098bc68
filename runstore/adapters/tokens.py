"""API tokens in Redis: one hash, name → what is known about the token, never the token itself."""

import re
from logging import getLogger
from typing import Annotated, Any, Final, cast

import msgspec

from runstore.adapters.connection import StoreClient
from runstore.core.principal import Scope
from runstore.ports import TokenRecord
from runstore.wire.keys import TOKENS

_log = getLogger("runstore.tokens")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    hash: Annotated[str, msgspec.Meta(pattern=f"^{_HASH.pattern}$")]
    scopes: tuple[Scope, ...]
    projects: tuple[str, ...] | None
    created_at_s: int
    expires_at_s: int | None = None


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Kept)


class RedisTokens:
    """API tokens by name, over Redis."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def put(self, token: TokenRecord) -> bool:
        """Store a token; false where the name is taken. Raises: StoreUnavailable."""
        kept = _Kept(
            hash=token.hash,
            scopes=token.scopes,
            projects=token.projects,
            created_at_s=token.created_at_s,
            expires_at_s=token.expires_at_s,
        )
        return bool(await self._client.execute_command("HSETNX", TOKENS, token.name, _ENCODER.encode(kept)))

    async def list_tokens(self) -> list[TokenRecord]:
        """List all tokens by name; one that cannot be read lets nobody in, and is told in the log.

        Raises: StoreUnavailable.
        """
        stored = cast(dict[bytes, bytes], await self._client.execute_command("HGETALL", TOKENS))
        found = (_read(name.decode("utf-8", "replace"), kept) for name, kept in sorted(stored.items()))
        return [token for token in found if token is not None]

    async def revoke(self, name: str) -> bool:
        """Forget a token; false where there is none by that name. Raises: StoreUnavailable."""
        gone: Any = await self._client.execute_command("HDEL", TOKENS, name)
        return bool(gone)


def _read(name: str, kept: bytes) -> TokenRecord | None:
    try:
        known = _DECODER.decode(kept)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _log.warning("token_unreadable", extra={"token_name": name})
        return None
    return TokenRecord(
        name=name,
        hash=known.hash,
        scopes=known.scopes,
        projects=known.projects,
        created_at_s=known.created_at_s,
        expires_at_s=known.expires_at_s,
    )
