"""Leases of runs that a publisher tracks: like a worker's, but nobody offered the run, and no cancel is heard.

Such a lease is marked `deaf`, so that a cancel is not left to a holder that hears none. A run that one of our workers
holds is never taken from it.
"""

from typing import TYPE_CHECKING, Final

from runstore.adapters.connection import Script
from runstore.adapters.dispatch import NOW, Standing
from runstore.core.ids import RunId, to_bytes

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

_HOLD: Final = Script(
    NOW
    + """
local told = redis.call('HMGET', KEYS[1], 'token', 'deaf')
if told[1] and told[1] ~= '' and told[2] ~= '1' then return 'lost' end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'worker', ARGV[3], 'project', ARGV[4], 'attempt', ARGV[5],
  'attempts', ARGV[5], 'claims', ARGV[5], 'begun', '1', 'cancel', '0', 'deaf', '1')
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[6])), ARGV[1])
return 'held'
"""
)
_DROP: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
""")


class RedisHolding:
    """Leases without dispatch. Every method may raise StoreUnavailable; the step may then be done all the same."""

    def __init__(self, store: "RedisStore") -> None:
        self._client = store.client
        self._meta = store.meta

    async def hold(
        self, run_id: RunId, token: str, *, worker: str, project_name: str, attempt: int, lease_ms: int
    ) -> Standing:
        """Take the lease of a run, from whoever else tracks it; LOST where a worker of ours has it."""
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        args: list[bytes | str | int] = [packed, token, worker, project_name, attempt, lease_ms]
        reply = await _HOLD.run(self._client, [keys.lease(packed), keys.leases], args)
        return Standing(reply.decode())

    async def drop(self, run_id: RunId, token: str) -> None:
        """Give a lease back before its run has ended."""
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        await _DROP.run(self._client, [keys.lease(packed), keys.leases], [packed, token])
