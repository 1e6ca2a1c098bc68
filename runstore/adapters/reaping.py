"""What the reaper sees in Redis, and its deeds: each one script that looks again before it does anything.

A deed is done only if the score is past by Redis's own clock and is, like the lease's token, the one that was seen. So
a reaper that was frozen between look and deed, or that has a twin, harms nobody.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.exceptions import ResponseError

from runstore.adapters.connection import Script, StorePipeline
from runstore.adapters.dispatch import MOST_SIGNALS, NOW, PACKED_BYTES, REQUEUE
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.wire.keys import PartitionKeys

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

MOST_DUE: Final = 200
_FIELDS: Final = ("project", "token", "attempt", "attempts", "claims", "begun", "cancel", "term")
_AGAIN: Final = """
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1')
if score ~= tonumber(ARGV[2]) or score > now then return 0 end
local token = redis.call('HGET', KEYS[2], 'token') or ''
if token ~= ARGV[3] then return 0 end
"""
_RETRY: Final = Script(
    NOW
    + REQUEUE
    + _AGAIN
    + """
if redis.call('HGET', KEYS[2], 'cancel') == '1' then return 0 end
requeue({leases = KEYS[1], queue = KEYS[3], offers = KEYS[4], deadlines = KEYS[5], queue_deadlines = KEYS[6]},
  ARGV[1], KEYS[2], ARGV[4])
return 1
"""
)
_END_LEASE: Final = Script(
    NOW
    + _AGAIN
    + """
if (redis.call('HGET', KEYS[2], 'cancel') == '1' and '1' or '0') ~= ARGV[5] then return 0 end
redis.call('XADD', KEYS[3], '*', 'event', ARGV[4])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""
)
_END_DEADLINE: Final = Script(
    NOW
    + _AGAIN
    + """
redis.call('XADD', KEYS[3], '*', 'event', ARGV[4])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""
)
_END_WAIT: Final = Script(
    NOW
    + _AGAIN
    + """
if redis.call('ZSCORE', KEYS[4], ARGV[1]) then
  redis.call('XADD', KEYS[3], '*', 'event', ARGV[4])
  redis.call('ZREM', KEYS[4], ARGV[1])
end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""
)
_SHORTEN: Final = Script(
    NOW
    + """
local found, shortened = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(now), '+inf', 'WITHSCORES'), 0
for place = 1, #found, 2 do
  local told = redis.pcall('HGET', ARGV[1] .. found[place], 'term')
  local term = type(told) == 'string' and tonumber(told)
  if term and tonumber(found[place + 1]) > now + term then
    redis.call('ZADD', KEYS[1], text(now + term), found[place])
    shortened = shortened + 1
  end
end
return shortened
"""
)
_DISMISS: Final = Script("""
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1')
if score ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
""")


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A lease, deadline or queue deadline that is past, with what was seen beside it.

    `project` empty: nothing is known of such a run. `term_ms` is how long its lease lasts from a heartbeat on (0: not
    known). `request` is its JSON, empty where it is gone.
    """

    partition: int
    run_id: RunId
    score: bytes
    project: str
    token: str
    attempt: int
    attempts: int
    claims: int
    has_begun: bool
    cancel_asked: bool
    term_ms: int
    request: bytes

    @property
    def past_ms(self) -> int:
        """When it was over."""
        return int(float(self.score))


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What one look saw."""

    now_ms: int
    leases: tuple[Due, ...] = ()
    deadlines: tuple[Due, ...] = ()
    queue_deadlines: tuple[Due, ...] = ()


class RedisReaping:
    """The reaper's eyes and hands. Every method may raise StoreUnavailable; a deed may then be done all the same."""

    def __init__(self, store: "RedisStore") -> None:
        self._client = store.client
        self._meta = store.meta

    async def now_ms(self) -> int:
        """Return the store's time."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def look(self, now_ms: int) -> Sight:
        """See what is past, at most so much of it that a turn stays short."""
        pipe = self._client.pipeline(transaction=False)
        for keys in self._meta.keys:
            for name in (keys.leases, keys.deadlines, keys.queue_deadlines):
                pipe.execute_command("ZRANGEBYSCORE", name, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, MOST_DUE)
        replies = await pipe.execute(raise_on_error=False)
        found: tuple[list[Due], ...] = ([], [], [])
        for keys in self._meta.keys:
            for kind in range(3):
                reply = replies[3 * keys.partition + kind]
                if reply and not isinstance(reply, Exception):
                    name = (keys.leases, keys.deadlines, keys.queue_deadlines)[kind]
                    found[kind].extend(await self._beside(keys, name, reply))
        leases, deadlines, queue_deadlines = map(tuple, found)
        return Sight(now_ms=now_ms, leases=leases, deadlines=deadlines, queue_deadlines=queue_deadlines)

    async def _beside(self, keys: PartitionKeys, name: bytes, rows: Sequence[Any]) -> list[Due]:
        members = _pairs(rows)
        pipe: StorePipeline = self._client.pipeline(transaction=False)
        for packed, _ in members:
            if len(packed) != PACKED_BYTES:
                pipe.execute_command("ZREM", name, packed)
                continue
            pipe.execute_command("HMGET", keys.lease(packed), *_FIELDS)
            pipe.execute_command("HGET", keys.run(packed), "p")
            pipe.execute_command("GET", keys.request(packed))
        replies = iter(await pipe.execute(raise_on_error=False))
        due = []
        for packed, score in members:
            if len(packed) != PACKED_BYTES:
                next(replies)
                continue
            lease, owner, request = next(replies), next(replies), next(replies)
            if isinstance(lease, Exception):
                lease = [None] * len(_FIELDS)
            due.append(_due(keys.partition, packed, score, beside=(lease, owner, request)))
        return due

    async def shorten(self) -> int:
        """Let no lease last longer than its term from now on, and return how many would have.

        Their holders, should they live, would have said the same by now: such a lease is left of a time that has not
        come yet since the store's clock was set back.
        """
        calls = [([keys.leases], [keys.lease(b"")]) for keys in self._meta.keys]
        replies = await _SHORTEN.run_each(self._client, calls)
        return sum(reply for reply in replies if not isinstance(reply, Exception))

    async def retry(self, due: Due) -> bool:
        """Put a run whose lease is past back into its queue; false where it is not as it was seen."""
        keys, packed = self._meta.keys[due.partition], to_bytes(due.run_id)
        names = [keys.leases, keys.lease(packed), keys.queue(due.project), keys.offers]
        names += [keys.deadlines, keys.queue_deadlines]
        return bool(await _RETRY.run(self._client, names, [packed, due.score, due.token, MOST_SIGNALS]))

    async def end_lease(self, due: Due, event: bytes) -> bool:
        """Append the event that ends a run whose lease is past; false where it is not as it was seen."""
        keys, packed = self._meta.keys[due.partition], to_bytes(due.run_id)
        names = [keys.leases, keys.lease(packed), keys.events, keys.deadlines]
        args: list[bytes | str | int] = [packed, due.score, due.token, event, b"%d" % due.cancel_asked]
        return bool(await _END_LEASE.run(self._client, names, args))

    async def end_deadline(self, due: Due, event: bytes) -> bool:
        """Append the event that ends a run past its deadline; false where it is not as it was seen."""
        keys, packed = self._meta.keys[due.partition], to_bytes(due.run_id)
        names = [keys.deadlines, keys.lease(packed), keys.events, keys.leases]
        return bool(await _END_DEADLINE.run(self._client, names, [packed, due.score, due.token, event]))

    async def end_wait(self, due: Due, event: bytes) -> bool:
        """Append the event that ends a run that waited too long; false where it is not as it was seen."""
        keys, packed = self._meta.keys[due.partition], to_bytes(due.run_id)
        names = [keys.queue_deadlines, keys.lease(packed), keys.events, keys.queue(due.project)]
        return bool(await _END_WAIT.run(self._client, names, [packed, due.score, due.token, event]))

    async def dismiss(self, due: Due) -> None:
        """Forget what is past of a run of which nothing is known."""
        keys, packed = self._meta.keys[due.partition], to_bytes(due.run_id)
        for name in (keys.leases, keys.deadlines, keys.queue_deadlines):
            await _DISMISS.run(self._client, [name], [packed, due.score])


def _pairs(rows: Sequence[Any]) -> list[tuple[bytes, bytes]]:
    if rows and isinstance(rows[0], list | tuple):
        return [(member, _score(score)) for member, score in rows]
    return [(rows[i], _score(rows[i + 1])) for i in range(0, len(rows), 2)]


def _score(score: Any) -> bytes:
    return score if isinstance(score, bytes) else b"%d" % score


def was_refused(error: StoreUnavailable) -> bool:
    """Say whether the server answered, only not as wished: a key of the wrong type, say."""
    return isinstance(error.__cause__, ResponseError)


def _due(partition: int, packed: bytes, score: bytes, *, beside: tuple[Any, Any, Any]) -> Due:
    lease, owner, request = beside
    project, token, attempt, attempts, claims, begun, cancel, term = lease
    owner = owner if isinstance(owner, bytes) else b""
    return Due(
        partition=partition,
        run_id=from_bytes(packed),
        score=score,
        project=(owner or project or b"").decode("utf-8", "replace"),
        token=(token or b"").decode("ascii", "replace"),
        attempt=_number(attempt),
        attempts=_number(attempts),
        claims=_number(claims),
        has_begun=begun == b"1",
        cancel_asked=cancel == b"1",
        term_ms=_number(term),
        request=request if isinstance(request, bytes) else b"",
    )


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0
