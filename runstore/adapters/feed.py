"""The feeds over Redis: one stream a partition, one entry a commit, ids dense from `1-0` on."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from runstore.adapters.connection import MAX_BLOCK_MS, Connections, Script
from runstore.adapters.log import RedisLog, parse_entry_id
from runstore.adapters.meta import Meta
from runstore.core.cursor import FeedSight, Place
from runstore.core.event import EntryId
from runstore.wire.feed import FeedEntry, decode_feed
from runstore.wire.keys import META

START: Final = EntryId(0, 0)
_ENTRIES_A_READ: Final = 16
_LAST_SEQ: Final = 2**64 - 1
_LOG_ENDS: Final = Script("""
local ends = {'0-0', '0-0', 0}
if redis.call('EXISTS', KEYS[1]) == 0 then return ends end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then ends[1] = info[i + 1] end
  if info[i] == 'first-entry' and info[i + 1] then ends[2] = info[i + 1][1] end
end
if ARGV[1] then ends[3] = #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) end
return ends
""")


class RedisFeed:
    """What the projectors committed, for gateways to tail."""

    def __init__(self, connections: Connections, meta: Meta, log: RedisLog) -> None:
        self._client = connections.client
        self._blocking = connections.blocking
        self._meta = meta
        self._log = log
        self._partition_of = {keys.feed: keys.partition for keys in meta.keys}

    async def tail(self) -> list[tuple[Place, FeedEntry | None]]:
        """Return the newest place of every partition with its feed entry (None: nothing was ever committed)."""
        pipe = self._client.pipeline(transaction=False)
        for keys in self._meta.keys:
            pipe.execute_command("HGET", keys.cursor, "epoch")
            pipe.execute_command("XREVRANGE", keys.feed, "+", "-", "COUNT", 1)
        replies = await pipe.execute()
        tails: list[tuple[Place, FeedEntry | None]] = []
        for partition in range(self._meta.partitions):
            epoch, rows = replies[2 * partition : 2 * partition + 2]
            last = _decode(*rows[0]) if rows else None
            tails.append(
                (
                    Place(
                        partition=partition,
                        epoch=epoch or await self._log.epoch(partition),
                        n=last.n if last else 0,
                        nonce=last.nonce if last else b"",
                    ),
                    last,
                )
            )
        return tails

    async def wait(self, places: Mapping[int, int], block_ms: int) -> list[tuple[int, FeedEntry]]:
        """Wait for feed entries after the numbers, by partition; empty when `block_ms` passed without any.

        Units: `block_ms` 0 does not wait; more than 30,000 waits so long.
        """
        if not places:
            return []
        # one read for all: the day that slots lie on several servers, one read for each server
        block = ("BLOCK", min(block_ms, MAX_BLOCK_MS)) if block_ms > 0 else ()
        reply = await self._blocking.execute_command(
            "XREAD",
            *("COUNT", _ENTRIES_A_READ),
            *block,
            "STREAMS",
            *(self._meta.keys[partition].feed for partition in places),
            *(b"%d-%d" % (n, _LAST_SEQ) for n in places.values()),
        )
        return [(self._partition_of[key], _decode(*row)) for key, rows in stream_replies(reply) for row in rows]

    async def read(self, partition: int, after: int, upto: int) -> list[FeedEntry]:
        """Read the kept entries with numbers in (after, upto], in order."""
        rows = await self._client.execute_command(
            "XRANGE", self._meta.keys[partition].feed, b"%d-0" % (after + 1), b"%d-0" % upto
        )
        return [_decode(*row) for row in rows]

    async def sight(self, place: Place) -> FeedSight:
        """See what the feed says about a place (for `core.cursor.judge`)."""
        if place.partition >= self._meta.partitions:
            return FeedSight(epoch=b"", first=0, last=0, nonce_at=None, last_entry=START, log_end=START)
        keys = self._meta.keys[place.partition]
        pipe = self._client.pipeline(transaction=False)
        pipe.execute_command("HMGET", keys.cursor, "epoch", "entry")
        pipe.execute_command("XRANGE", keys.feed, "-", "+", "COUNT", 1)
        pipe.execute_command("XREVRANGE", keys.feed, "+", "-", "COUNT", 1)
        pipe.execute_command("XRANGE", keys.feed, b"%d-0" % place.n, b"%d-0" % place.n)
        (epoch, entry), first, last, at = await pipe.execute()
        asked = [str(place.entry)] if place.entry is not None else []
        log_end, log_first, found = await _LOG_ENDS.run(self._client, [keys.events], asked)
        return FeedSight(
            epoch=epoch or await self._log.epoch(place.partition),
            first=_number(first),
            last=_number(last),
            nonce_at=_decode(*at[0]).nonce if at else None,
            last_entry=parse_entry_id(entry) if entry else START,
            log_end=parse_entry_id(log_end),
            log_first=parse_entry_id(log_first),
            is_logged=bool(found),
        )

    async def store_id(self) -> bytes | None:
        """Return the id that the store was given when it was created; None where somebody has emptied it."""
        found: bytes | None = await self._client.execute_command("HGET", META, "store_id")
        return found


def stream_replies(reply: Any) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """Bring what XREAD answered into one shape."""
    return [(key, rows) for key, rows in (reply.items() if isinstance(reply, dict) else reply or ())]


def _decode(place: bytes, fields: Mapping[bytes, bytes]) -> FeedEntry:
    """Read an entry; one that no projector wrote follows nothing and tells nothing, and holds nobody up."""
    try:
        return decode_feed(fields[b"c"])
    except (KeyError, msgspec.MsgspecError):
        return FeedEntry(n=parse_entry_id(place).ms, nonce=b"", entry=START, changes=())


def _number(rows: list[tuple[bytes, Any]]) -> int:
    return parse_entry_id(rows[0][0]).ms if rows else 0
