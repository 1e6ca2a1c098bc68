"""The keys of run tokens in Redis: one hash, key id → when it was made (ms, by Redis's clock) and its secret.

Whoever may read this store may read every run in it, so the secrets are as safe here as anywhere.
"""

import re
from logging import getLogger
from typing import Any, Final, cast

from runstore.adapters.connection import Script, StoreClient
from runstore.adapters.dispatch import NOW
from runstore.core.run_token import KEY_ID_BYTES, SECRET_BYTES
from runstore.ports import SigningKey
from runstore.wire.keys import RUN_TOKEN_KEYS

_log = getLogger("runstore.tokens")
_KEPT: Final = re.compile(rb"(\d{1,15}):([0-9a-f]{%d})" % (2 * SECRET_BYTES))
_RENEW: Final = Script(
    NOW
    + """
local rotate, keep, newest = tonumber(ARGV[3]), tonumber(ARGV[4]), nil
local form = '^(%d+):' .. string.rep('%x', 2 * tonumber(ARGV[5])) .. '$'
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local made = tonumber(string.match(all[i + 1], form) or '0')
  if made + keep <= now or made > now + rotate then
    redis.call('HDEL', KEYS[1], all[i])
  elseif not newest or made > newest then
    newest = made
  end
end
if not newest or newest + rotate <= now then
  redis.call('HSET', KEYS[1], ARGV[1], text(now) .. ':' .. ARGV[2])
end
return redis.call('HGETALL', KEYS[1])
"""
)
SHARED: Final = (_RENEW,)
"""What those run who may send no scripts."""


class RedisSigningKeys:
    """The keys of run tokens, over Redis. Every method may raise StoreUnavailable."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def list_keys(self) -> list[SigningKey]:
        """List the keys that are kept."""
        stored = cast(dict[bytes, bytes], await self._client.execute_command("HGETALL", RUN_TOKEN_KEYS))
        return _read(stored)

    async def renew(self, key_id: bytes, secret: bytes, *, rotate_s: int, keep_s: int) -> list[SigningKey]:
        """Take a new key where the newest is too old, in one step, so that gateways together make one."""
        args: list[bytes | str | int] = [key_id.hex(), secret.hex(), rotate_s * 1000, keep_s * 1000, SECRET_BYTES]
        reply: Any = await _RENEW.run(self._client, [RUN_TOKEN_KEYS], args)
        return _read(dict(zip(reply[::2], reply[1::2], strict=True)))


def _read(stored: dict[bytes, bytes]) -> list[SigningKey]:
    keys = [_read_key(key_id, kept) for key_id, kept in sorted(stored.items())]
    return [key for key in keys if key is not None]


def _read_key(key_id: bytes, kept: bytes) -> SigningKey | None:
    match = _KEPT.fullmatch(kept)
    try:
        packed = bytes.fromhex(key_id.decode("ascii"))
    except ValueError:
        packed = b""
    if match is None or len(packed) != KEY_ID_BYTES:
        _log.warning("run_token_key_unreadable")
        return None
    return SigningKey(key_id=packed, secret=bytes.fromhex(match[2].decode()), created_at_s=int(match[1]) // 1000)
