"""Dispatch over Redis: claims, leases and signals, each step one script of one partition, timed by Redis's own clock.

A lease is a score in `leases` (when it ends) and a hash: `token` (empty while nobody holds the run), `worker`,
`project`, `attempt`, `attempts`, `claims` (how often it was claimed), `begun` (`1` once its command may have started),
`cancel` (`1` once asked), `deaf` (`1` where its holder hears of no cancel), `created` (its place in the queue),
`queue_until` (its queue deadline, until it has begun), `term` (how long it lasts from a heartbeat on).
A claim whose command never began counts for no attempt.

Scripts write last what would lose a run, were an earlier write to fail: a run leaves the queue when it has its lease,
and loses its lease when it is back in the queue.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from runstore.adapters.connection import Script
from runstore.adapters.log import parse_entry_id
from runstore.adapters.streams import StreamReads
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.wire.record import ENDED

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

MOST_SIGNALS: Final = 1_000
PACKED_BYTES: Final = 16
NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(n) return string.format('%.0f', n) end
"""
REQUEUE: Final = """
local function requeue(keys, id, lease, most)
  local told = redis.call('HMGET', lease, 'created', 'project', 'begun', 'attempt', 'queue_until')
  redis.call('ZADD', keys.queue, told[1], id)
  redis.pcall('XADD', keys.offers, 'MAXLEN', '~', most, '*', 'id', id, 'project', told[2])
  if told[5] and told[5] ~= '' then redis.call('ZADD', keys.queue_deadlines, told[5], id) end
  local attempt = tonumber(told[4])
  if told[3] ~= '1' then attempt = attempt - 1 end
  redis.call('ZREM', keys.deadlines, id)
  redis.call('HSET', lease, 'token', '', 'attempt', text(attempt))
  redis.call('ZREM', keys.leases, id)
end
"""
_CLAIM: Final = Script(
    NOW
    + """
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #head == 0 then return {} end
local id, created = head[1], head[2]
if #id ~= 16 then
  redis.call('ZREM', KEYS[1], id)
  return {''}
end
local lease = ARGV[1] .. id
local old = redis.call('HMGET', lease, 'attempt', 'claims')
local attempt = text(tonumber(old[1] or '0') + 1)
local claims = text(tonumber(old[2] or '0') + 1)
local queue_until = redis.call('ZSCORE', KEYS[3], id) or ''
redis.call('HSET', lease, 'token', ARGV[3], 'worker', ARGV[4], 'project', ARGV[5], 'attempt', attempt,
  'attempts', ARGV[6], 'claims', claims, 'begun', '0', 'cancel', '0', 'created', created, 'queue_until', queue_until,
  'term', ARGV[7])
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[7])), id)
redis.call('ZADD', KEYS[4], text(now + tonumber(ARGV[8])), id)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[1], id)
local rest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {id, attempt, redis.call('GET', ARGV[2] .. id) or '', rest[2] or ''}
"""
)
_BEGIN: Final = Script(
    NOW
    + """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'lost' end
if redis.call('HGET', KEYS[1], 'cancel') == '1' then return 'cancel_asked' end
redis.call('ZADD', KEYS[3], text(now + tonumber(ARGV[4])), ARGV[1])
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[3])), ARGV[1])
redis.call('HSET', KEYS[1], 'begun', '1', 'queue_until', '', 'term', ARGV[3])
return 'held'
"""
)
HEARTBEAT: Final = Script(
    NOW
    + """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 'lost' end
redis.call('HSET', KEYS[1], 'term', ARGV[3])
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[3])), ARGV[1])
if KEYS[3] then
  local left = tonumber(ARGV[4])
  if left > 0 then redis.call('ZADD', KEYS[3], text(now + left), ARGV[1])
  else redis.call('ZADD', KEYS[3], 'XX', 'LT', text(now), ARGV[1]) end
end
if redis.call('HGET', KEYS[1], 'cancel') == '1' then return 'cancel_asked' end
return 'held'
"""
)
_REGAIN: Final = Script(
    NOW
    + """
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('HEXISTS', KEYS[3], ARGV[8]) == 1 then return {'lost'} end
local most = ARGV[6]
if redis.call('EXISTS', KEYS[4]) == 1 then most = ARGV[7] end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'worker', ARGV[4], 'project', ARGV[5], 'attempt', ARGV[6],
  'attempts', most, 'claims', ARGV[6], 'begun', '1', 'cancel', '0', 'created', text(now), 'queue_until', '',
  'term', ARGV[3])
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[3])), ARGV[1])
return {'held', redis.call('EXISTS', KEYS[3])}
"""
)
_RELEASE: Final = Script(
    NOW
    + REQUEUE
    + """
local told = redis.call('HMGET', KEYS[1], 'token', 'cancel', 'begun', 'attempt', 'attempts')
if told[1] ~= ARGV[2] then return 'lost' end
if told[2] == '1' then return 'cancel_asked' end
if told[3] == '1' and tonumber(told[4]) >= tonumber(told[5]) then return 'spent' end
requeue({leases = KEYS[2], queue = KEYS[3], offers = KEYS[4], deadlines = KEYS[5], queue_deadlines = KEYS[6]},
  ARGV[1], KEYS[1], ARGV[3])
return 'requeued'
"""
)
_FINISH: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
return redis.call('ZREM', KEYS[2], ARGV[1])
""")
_ASK_CANCEL: Final = Script("""
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
if redis.call('HGET', KEYS[1], 'deaf') == '1' then return 0 end
redis.call('HSET', KEYS[1], 'cancel', '1')
redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'id', ARGV[1], 'what', 'cancel')
return 1
""")
SHARED: Final = (_CLAIM, _BEGIN, HEARTBEAT, _RELEASE, _FINISH, _ASK_CANCEL)
"""What those run who may send no scripts."""


class Standing(StrEnum):
    """How a claim stands."""

    HELD = "held"
    CANCEL_ASKED = "cancel_asked"
    LOST = "lost"


class Released(StrEnum):
    """What became of a claim that was given back."""

    REQUEUED = "requeued"
    SPENT = "spent"
    CANCEL_ASKED = "cancel_asked"
    LOST = "lost"


class ClaimRow(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed run as it was stored. `request` is its JSON, empty where it is gone.

    `next_ms` is when the run was created that is now the first of the queue (None: the queue is empty).
    """

    run_id: RunId
    attempt: int
    token: str
    request: bytes
    next_ms: int | None


class Regained(NamedTuple):
    """How a claim stands whose lease was lost, and whether the store knows of the run."""

    standing: Standing
    run_is_known: bool


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A wake-up: a run was offered (`project` says of which project), or something about a run is to be looked at.

    Units: `at_ms` is the store's time when it was told.
    """

    partition: int
    at_ms: int
    run_id: RunId
    project: str | None


class Place(NamedTuple):
    """How far the signals of one stream were heard."""

    partition: int
    is_offers: bool
    after: bytes


class RedisDispatch:
    """Claims and leases. Every method may raise StoreUnavailable; the step may then be done all the same."""

    def __init__(self, store: "RedisStore") -> None:
        self._client = store.client
        self._reads = StreamReads(store.blocking)
        self._meta = store.meta

    async def claim(
        self, partition: int, project: str, *, worker: str, attempts: int, lease_ms: int, deadline_ms: int
    ) -> ClaimRow | None:
        """Take the oldest run that waits in one queue, with a lease; None where none waits.

        Units: `deadline_ms` from now, after which the run ends as timed out unless `begin` says otherwise.
        """
        keys, token = self._meta.keys[partition], token_hex(16)
        names = [keys.queue(project), keys.leases, keys.queue_deadlines, keys.deadlines]
        args: list[bytes | str | int] = [keys.lease(b""), keys.request(b""), token]
        args += [worker, project, attempts, lease_ms, deadline_ms]
        while row := await _CLAIM.run(self._client, names, args):
            if len(row) > 1:
                run_id, attempt, request, head = row
                return ClaimRow(
                    run_id=from_bytes(run_id),
                    attempt=int(attempt),
                    token=token,
                    request=request,
                    next_ms=_ms(head) if head else None,
                )
        return None

    async def begin(self, run_id: RunId, token: str, *, lease_ms: int, deadline_ms: int) -> Standing:
        """Say that the command is about to start: from now on the attempt counts, and the run has its deadline."""
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        names = [keys.lease(packed), keys.leases, keys.deadlines]
        reply = await _BEGIN.run(self._client, names, [packed, token, lease_ms, deadline_ms])
        return Standing(reply.decode())

    async def heartbeat(self, run_id: RunId, token: str, *, lease_ms: int, left_ms: int | None = None) -> Standing:
        """Renew a lease, and hear how it stands.

        Units: `left_ms` is how much of the run's time is left by the holder's own clock (None: it does not say), for
        the store's clock, by which the deadline is kept, may have jumped.
        """
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        names = [keys.lease(packed), keys.leases]
        args: list[bytes | str | int] = [packed, token, lease_ms]
        if left_ms is not None:
            names.append(keys.deadlines)
            args.append(max(0, left_ms))
        reply = await HEARTBEAT.run(self._client, names, args)
        return Standing(reply.decode())

    async def regain(
        self, run_id: RunId, token: str, *, worker: str, project: str, attempt: int, attempts: int, lease_ms: int
    ) -> Regained:
        """Take the lease of a run that is worked on again, where the store has lost it, be it with all that it had.

        LOST where anybody else has the run, or it has ended. Where its request is lost, there is no other attempt.
        """
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        names = [keys.lease(packed), keys.leases, keys.run(packed), keys.request(packed)]
        args: list[bytes | str | int] = [packed, token, lease_ms, worker, project, attempt, attempts, ENDED]
        standing, *is_known = await _REGAIN.run(self._client, names, args)
        return Regained(Standing(standing.decode()), bool(is_known and is_known[0]))

    async def release(self, run_id: RunId, token: str, project: str) -> Released:
        """Put a run back into its queue, where another attempt is left; else it stays held, to be ended."""
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        names = [keys.lease(packed), keys.leases, keys.queue(project), keys.offers, keys.deadlines]
        names.append(keys.queue_deadlines)
        reply = await _RELEASE.run(self._client, names, [packed, token, MOST_SIGNALS])
        return Released(reply.decode())

    async def finish(self, run_id: RunId, token: str) -> None:
        """End a lease whose run's end is in the log: from here on its deadline watches over it."""
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        await _FINISH.run(self._client, [keys.lease(packed), keys.leases], [packed, token])

    async def ask_cancel(self, run_id: RunId) -> bool:
        """Ask the holder of a run to cancel it; false where nobody holds it who would hear."""
        keys, packed = self._meta.keys_of(run_id), to_bytes(run_id)
        names = [keys.lease(packed), keys.leases, keys.controls]
        return bool(await _ASK_CANCEL.run(self._client, names, [packed, MOST_SIGNALS]))

    async def waiting(self, projects: Sequence[str]) -> dict[tuple[int, str], int]:
        """Say in which queues (partition and project) runs wait, and when the first of each was created (ms)."""
        places = [(keys.partition, name) for keys in self._meta.keys for name in projects]
        pipe = self._client.pipeline(transaction=False)
        for partition, name in places:
            pipe.execute_command("ZRANGE", self._meta.keys[partition].queue(name), 0, 0, "WITHSCORES")
        heads = await pipe.execute() if places else []
        return {place: _head_ms(head) for place, head in zip(places, heads, strict=True) if head}

    async def ends(self) -> dict[bytes, Place]:
        """Return the ends of all streams of signals, to listen from."""
        streams = [(keys.offers, keys.partition, True) for keys in self._meta.keys]
        streams += [(keys.controls, keys.partition, False) for keys in self._meta.keys]
        pipe = self._client.pipeline(transaction=False)
        for key, _, _ in streams:
            pipe.execute_command("XREVRANGE", key, "+", "-", "COUNT", 1)
        replies = await pipe.execute()
        return {
            key: Place(partition, is_offers, rows[0][0] if rows else b"0")
            for (key, partition, is_offers), rows in zip(streams, replies, strict=True)
        }

    async def listen(self, places: dict[bytes, Place], block_ms: int) -> list[Signal]:
        """Wait for signals after the places, and move these behind them."""
        streams = {key: place.after for key, place in places.items()}
        signals: list[Signal] = []
        for key, rows in await self._reads.read(streams, count=128, block_ms=block_ms):
            place = places[key]
            places[key] = place._replace(after=rows[-1][0])
            signals += [signal for entry, fields in rows if (signal := _signal(place, entry, fields)) is not None]
        return signals


def _head_ms(head: Sequence[Any]) -> int:
    """Read the score of the one member of a range, in either shape that clients give it."""
    return _ms(head[0][1] if isinstance(head[0], list | tuple) else head[1])


def _ms(score: bytes | float) -> int:
    return int(float(score))


def _signal(place: Place, entry: bytes, fields: Mapping[bytes, Any]) -> Signal | None:
    packed = fields.get(b"id", b"")
    if len(packed) != PACKED_BYTES:
        return None
    project = fields.get(b"project", b"").decode("utf-8", "replace") if place.is_offers else None
    at_ms = parse_entry_id(entry).ms
    return Signal(partition=place.partition, at_ms=at_ms, run_id=from_bytes(packed), project=project)
