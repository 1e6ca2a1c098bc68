"""Sharing partitions among projectors: who is there, and who takes which; for efficiency only.

Two projectors on one partition do no harm: one of their commits is lost. So a lease may be wrong at any time.

Nobody is there, nor holds a partition, for longer than a lease from now on unless it says so again: what a dead one
said while the store's clock was ahead would else hold until that time comes, and nobody would fold its share.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from runstore.adapters.connection import Script, StoreClient
from runstore.adapters.meta import Meta
from runstore.wire.keys import PROJECTORS

_ARRIVE: Final = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(n) return string.format('%.0f', n) end
local latest = text(now + tonumber(ARGV[2]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. latest, '+inf')) do
  redis.call('ZADD', KEYS[1], latest, name)
end
redis.call('ZADD', KEYS[1], latest, ARGV[1])
return redis.call('ZCARD', KEYS[1])
""")
_HOLD: Final = Script("""
local owner = redis.pcall('GET', KEYS[1])
if type(owner) == 'string' and owner ~= ARGV[1] then
  if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
_RELEASE: Final = Script("""
if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")


class Sharing:
    """One projector's part in the sharing, under a name of its own."""

    def __init__(self, client: StoreClient, meta: Meta, name: str, *, lease_ms: int) -> None:
        self._client = client
        self._meta = meta
        self._name = name
        self._lease_ms = lease_ms

    async def arrive(self) -> int:
        """Say that this projector is there, and return how many are. Raises: StoreUnavailable."""
        return int(await _ARRIVE.run(self._client, [PROJECTORS], [self._name, self._lease_ms]))

    async def hold(self, partition: int) -> bool:
        """Take or keep a partition; false where another holds it. Raises: StoreUnavailable."""
        return bool(await _HOLD.run(self._client, [self._meta.keys[partition].owner], [self._name, self._lease_ms]))

    async def release(self, partitions: Iterable[int]) -> None:
        """Leave partitions to others. Raises: StoreUnavailable."""
        for partition in partitions:
            await _RELEASE.run(self._client, [self._meta.keys[partition].owner], [self._name])

    async def leave(self, partitions: Sequence[int]) -> None:
        """Leave everything to others. Raises: StoreUnavailable."""
        await self.release(partitions)
        await self._client.execute_command("ZREM", PROJECTORS, self._name)
