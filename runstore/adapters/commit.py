"""The commit: all writes of a batch, its feed entry and the new cursor in one step, if the cursor is as it was read.

A script that fails midway keeps what it wrote before, so this one checks first and writes after: the nonce, then that
the log has the last event of the batch (a server that lost it may have taken over since it was read), then the type of
every key it is going to write, and that those of runs which were taken for new are not there, then the feed, whose
number can be written once only. It knows no rule of runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import chain, repeat
from typing import Final

import msgspec

from runstore.adapters.connection import Script, StoreClient
from runstore.adapters.durability import Safety
from runstore.core.event import EntryId
from runstore.wire.keys import PartitionKeys

MOST_ARGUMENTS: Final = 2000
_COMMIT: Final = Script("""
if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return {'lost'} end
if KEYS[3] and #redis.pcall('XRANGE', KEYS[3], ARGV[4], ARGV[4]) == 0 then return {'lost'} end
local needs = {NEW = 'hash', HSET = 'hash', HDEL = 'hash', ZADD = 'zset', ZREM = 'zset', XADD = 'stream'}
local seen, wrong, is_known, total, i = {}, {'wrong'}, false, #ARGV, 7
while i <= total do
  local need, key = needs[ARGV[i + 1]], ARGV[i + 2]
  -- a key of a slot that is moving may be elsewhere: asking for it ends the script, and nothing was written yet
  if not need and ARGV[6] == '1' then
    redis.call('EXISTS', unpack(ARGV, i + 2, ARGV[i + 1] == 'UNLINK' and i + tonumber(ARGV[i]) or i + 2))
  end
  if need and not seen[key] then
    seen[key] = true
    local kind = redis.call('TYPE', key)
    if type(kind) == 'table' then kind = kind.ok end
    if kind ~= 'none' and kind ~= need then wrong[#wrong + 1] = key end
    if kind == need and ARGV[i + 1] == 'NEW' then is_known = true end
  end
  i = i + 1 + tonumber(ARGV[i])
end
if #wrong > 1 then return wrong end
if is_known then return {'known'} end
local told = redis.pcall('XADD', KEYS[2], ARGV[3] .. '-0', 'c', ARGV[5])
if type(told) == 'table' and told.err then return {'feed', told.err} end
i = 7
while i <= total do
  local argc = tonumber(ARGV[i])
  if ARGV[i + 1] == 'XADD' then
    redis.pcall(unpack(ARGV, i + 1, i + argc))
  elseif ARGV[i + 1] == 'NEW' then
    redis.call('HSET', unpack(ARGV, i + 2, i + argc))
  else
    redis.call(unpack(ARGV, i + 1, i + argc))
  end
  i = i + 1 + argc
end
redis.call('HSET', KEYS[1], 'nonce', ARGV[2], 'n', ARGV[3], 'entry', ARGV[4])
return {'done'}
""")


class Verdict(StrEnum):
    """What became of a commit."""

    DONE = "done"
    LOST = "lost"
    KNOWN = "known"
    WRONG = "wrong"
    FEED = "feed"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, with the keys of the wrong type or what the feed said, and whether it is as durable as it is to be."""

    verdict: Verdict
    is_safe: bool = True
    about: tuple[bytes, ...] = ()


class Writes:
    """The writes of one commit, those to one key grouped into one command."""

    def __init__(self) -> None:
        self._hset: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._zadd: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._raised: defaultdict[bytes, dict[bytes, int]] = defaultdict(dict)
        self._removals: defaultdict[tuple[bytes, bytes], list[bytes]] = defaultdict(list)
        self._set: list[bytes] = []
        self._other: list[list[bytes]] = []
        self._unlink: list[bytes] = []
        self._new: set[bytes] = set()

    def checked(self) -> set[bytes]:
        """Name the keys that must be of the right type, but for streams."""
        return {*self._hset, *self._zadd, *self._raised, *(key for _, key in self._removals)}

    def hset(self, key: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Set fields of a hash."""
        self._hset[key].extend(chain.from_iterable(fields.items()))

    def begin(self, key: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Set fields of a hash that is not there yet: where it is, the whole commit is not done."""
        self._new.add(key)
        self.hset(key, fields)

    def hdel(self, key: bytes, fields: Iterable[bytes]) -> None:
        """Remove fields of a hash."""
        self._removals[b"HDEL", key].extend(fields)

    def zadd(self, key: bytes, score: int, member: bytes) -> None:
        """Put a member into a sorted set."""
        self._zadd[key] += (b"%d" % score, member)

    def zadd_up(self, key: bytes, score: int, member: bytes) -> None:
        """Put a member into a sorted set; a score that is there never falls."""
        raised = self._raised[key]
        raised[member] = max(score, raised.get(member, 0))

    def zrem(self, key: bytes, member: bytes) -> None:
        """Take a member out of a sorted set."""
        self._removals[b"ZREM", key].append(member)

    def put(self, key: bytes, value: bytes) -> None:
        """Set a string, whatever the key held."""
        self._set += (key, value)

    def persist(self, key: bytes) -> None:
        """Take a key's expiry away."""
        self._other.append([b"PERSIST", key])

    def unlink(self, key: bytes) -> None:
        """Remove a key."""
        self._unlink.append(key)

    def xadd(self, key: bytes, most: int, fields: Mapping[bytes, bytes]) -> None:
        """Append to a stream that is kept to about so many entries."""
        flat = [part for item in fields.items() for part in item]
        self._other.append([b"XADD", key, b"MAXLEN", b"~", b"%d" % most, b"*", *flat])

    def commands(self, without: frozenset[bytes] = frozenset()) -> list[list[bytes]]:
        """Return the commands, but for those that write the keys `without`."""
        found = [command for command in self._other if command[1] not in without]
        found += [[b"MSET", *part] for part in _pieces(self._set)]
        for key, flat in self._hset.items():
            names = chain((b"NEW" if key in self._new else b"HSET",), repeat(b"HSET"))
            found += [[name, key, *part] for name, part in zip(names, _pieces(flat), strict=False)]
        for key, flat in self._zadd.items():
            found += [[b"ZADD", key, *part] for part in _pieces(flat)]
        for key, scores in self._raised.items():
            flat = [part for member, score in scores.items() for part in (b"%d" % score, member)]
            found += [[b"ZADD", key, b"GT", *part] for part in _pieces(flat)]
        for (name, key), members in self._removals.items():
            found += [[name, key, *part] for part in _pieces(members)]
        found += [[b"UNLINK", *part] for part in _pieces(self._unlink)]
        return found if not without else [command for command in found if command[1] not in without]


def _pieces(flat: list[bytes]) -> list[list[bytes]]:
    if len(flat) <= MOST_ARGUMENTS:
        return [flat] if flat else []
    return [flat[begin : begin + MOST_ARGUMENTS] for begin in range(0, len(flat), MOST_ARGUMENTS)]


async def commit(
    client: StoreClient,
    keys: PartitionKeys,
    *,
    expected: bytes,
    nonce: bytes,
    n: int,
    entry: EntryId,
    feed: bytes,
    commands: Iterable[list[bytes]],
    safety: Safety,
    is_of_log: bool = False,
) -> Outcome:
    """Write a batch if the cursor still has the nonce `expected`, and wait until that is as safe as it is to be.

    With `is_of_log` nothing is written either where the log does not have `entry`.

    Raises: StoreUnavailable; it may be written.
    """
    args: list[bytes | str | int] = [expected, nonce, n, str(entry), feed, int(client.is_cluster)]
    for command in commands:
        args.append(len(command))
        args += command
    names = [keys.cursor, keys.feed, keys.events] if is_of_log else [keys.cursor, keys.feed]
    (verdict, *about), is_safe = await safety.run(_COMMIT, client, names, args)
    return Outcome(verdict=Verdict(verdict.decode()), is_safe=is_safe, about=tuple(about))
