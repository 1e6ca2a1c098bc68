"""Leases of runs that a publisher tracks: like a worker's, but nobody offered the run, and a cancel is not left to it.

Such a lease is marked `deaf`: a cancel ends its run at once, whatever the work goes on to do, and whoever holds it
hears of that with a later heartbeat. A run that one of our workers holds is never taken from it, and of one that has
ended no lease is taken, whoever comes late with it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from runstore.adapters.connection import Script
from runstore.adapters.dispatch import HEARTBEAT, NOW, Standing
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, to_bytes
from runstore.wire.record import ENDED

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

_HOLD: Final = Script(
    NOW
    + """
local told = redis.call('HMGET', KEYS[1], 'token', 'deaf')
if told[1] and told[1] ~= '' and told[2] ~= '1' then return 'lost' end
if ARGV[7] == '1' and told[1] and told[1] ~= ARGV[2] then return 'lost' end
if redis.pcall('HEXISTS', KEYS[3], ARGV[8]) == 1 then return 'lost' end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'worker', ARGV[4], 'project', ARGV[5], 'attempt', ARGV[6],
  'attempts', ARGV[6], 'claims', ARGV[6], 'begun', '1', 'cancel', '0', 'deaf', '1',
  'term', ARGV[3])
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[3])), ARGV[1])
return 'held'
"""
)
_DROP: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
""")
SHARED: Final = (_HOLD, _DROP)
"""What those run who may send no scripts."""


class Holding(msgspec.Struct, kw_only=True):
    """A run that a publisher holds, and whether its lease was taken.

    One that `yields` is taken where nobody else has it.
    """

    run_id: RunId
    project_name: str
    attempt: int
    token: str
    is_taken: bool = False
    yields: bool = False


class RedisHolding:
    """Leases without dispatch. Every method may raise StoreUnavailable; the step may then be done all the same."""

    def __init__(self, store: "RedisStore") -> None:
        self._client = store.client
        self._meta = store.meta

    async def hold_each(
        self, holdings: Sequence[Holding], *, worker: str, lease_ms: int
    ) -> list[Standing | StoreUnavailable]:
        """Take leases, each from whoever else tracks its run, and renew those that are taken, in two round trips.

        LOST where a worker of ours has the run, or it has ended; where it was taken, or yields: it is not ours. An
        error stands for one that failed by itself.
        """
        found: dict[RunId, Standing | StoreUnavailable] = {}
        for is_taken, script in ((False, _HOLD), (True, HEARTBEAT)):
            chosen = [holding for holding in holdings if holding.is_taken is is_taken]
            calls = [self._call(each, worker=worker, lease_ms=lease_ms) for each in chosen]
            replies = await script.run_each(self._client, calls) if calls else []
            found.update((each.run_id, _standing(reply)) for each, reply in zip(chosen, replies, strict=True))
        return [found[holding.run_id] for holding in holdings]

    async def drop(self, run_id: RunId, token: str) -> None:
        """Give a lease back before its run has ended."""
        await _DROP.run(self._client, self._keys(run_id), [to_bytes(run_id), token])

    def _keys(self, run_id: RunId) -> list[bytes]:
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        return [keys.lease(packed), keys.leases]

    def _call(self, holding: Holding, *, worker: str, lease_ms: int) -> tuple[list[bytes], list[bytes | str | int]]:
        keys, packed = self._keys(holding.run_id), to_bytes(holding.run_id)
        args: list[bytes | str | int] = [packed, holding.token, lease_ms]
        if not holding.is_taken:
            keys.append(self._meta.keys_of(holding.run_id).run(packed))
            args += [worker, holding.project_name, holding.attempt, b"%d" % holding.yields, ENDED]
        return keys, args


def is_damaged(error: StoreUnavailable) -> bool:
    """Say whether a lease cannot be taken for what lies in its place, which will be no better later."""
    return "WRONGTYPE" in error.detail


def _standing(reply: bytes | Exception) -> Standing | StoreUnavailable:
    if isinstance(reply, Exception):
        return StoreUnavailable(f"Redis did not do as asked: {str(reply)[:200]}")
    return Standing(reply.decode())
