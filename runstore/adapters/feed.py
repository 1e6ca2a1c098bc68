"""The feeds over Redis: one stream a partition, one entry a commit, ids dense from `1-0` on."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from runstore.adapters.connection import Script
from runstore.adapters.connections import Connections
from runstore.adapters.log import RedisLog, parse_entry_id
from runstore.adapters.mark import decode_mark, get_marks
from runstore.adapters.meta import Meta
from runstore.adapters.streams import StreamReads
from runstore.core.cursor import FeedSight, Place
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId
from runstore.wire.feed import FeedEntry, Mark, decode_feed
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
SHARED: Final = (_LOG_ENDS,)
"""What those run who may send no scripts."""


class RedisFeed:
    """What the projectors committed, for gateways to tail."""

    def __init__(self, connections: Connections, meta: Meta, log: RedisLog) -> None:
        self._connections = connections
        self._client = connections.client
        self._reads = StreamReads(connections.blocking)
        self._meta = meta
        self._log = log
        self._feeds = {keys.feed: keys.partition for keys in meta.keys}
        self._marks = {keys.mark: keys.partition for keys in meta.keys}

    @property
    def has_mark(self) -> bool:
        """Whether commits are told only once they are known to be as durable as the setting says."""
        return self._log.safety.has_mark

    async def tail(self) -> list[tuple[Place, FeedEntry | None]]:
        """Return the newest place of every partition that may be told, with its feed entry (None: none is known)."""
        pipe = self._client.pipeline(transaction=False)
        for keys in self._meta.keys:
            pipe.execute_command("HGET", keys.cursor, "epoch")
            pipe.execute_command("XREVRANGE", keys.feed, "+", "-", "COUNT", 1)
        replies = await pipe.execute()
        tails: list[tuple[Place, FeedEntry | None]] = []
        for partition in range(self._meta.partitions):
            epoch, rows = replies[2 * partition : 2 * partition + 2]
            last = _decode(*rows[0]) if rows else None
            place = Place(
                partition=partition,
                epoch=epoch or await self._log.epoch(partition),
                n=last.n if last else 0,
                nonce=last.nonce if last else b"",
            )
            tails.append((place, last) if last is None or not last.is_marked else await self._safe(place, last))
        return tails

    async def _safe(self, place: Place, last: FeedEntry) -> tuple[Place, FeedEntry | None]:
        """Go back from a place whose entry is kept until it is safe: to the mark, or before all that is kept."""
        keys = self._meta.keys[place.partition]
        [mark] = await get_marks(self._client, [keys])
        if mark is not None and (mark.n > last.n or mark == (last.n, last.nonce)):
            return place, last
        if mark is not None:
            for entry in await self.read(place.partition, mark.n - 1, mark.n):
                if entry.nonce == mark.nonce:
                    return msgspec.structs.replace(place, n=mark.n, nonce=mark.nonce), entry
        rows = await self._client.execute_command("XRANGE", keys.feed, "-", "+", "COUNT", 1)
        first = _decode(*rows[0]) if rows else last
        return msgspec.structs.replace(place, n=first.n - 1, nonce=first.before or b""), None

    async def wait(
        self, places: Mapping[int, int], block_ms: int, marks: Mapping[int, int] | None = None
    ) -> list[tuple[int, FeedEntry | Mark]]:
        """Wait for feed entries after the numbers, by partition, and for marks after those of `marks`.

        Entries come before marks. Empty when `block_ms` passed without any.

        Units: `block_ms` 0 does not wait; more than 30,000 waits so long.
        """
        keys = self._meta.keys
        streams = {keys[partition].feed: b"%d-%d" % (n, _LAST_SEQ) for partition, n in places.items()}
        streams |= {keys[partition].mark: b"%d-%d" % (n, _LAST_SEQ) for partition, n in (marks or {}).items()}
        if not streams:
            return []
        try:
            found = await self._reads.read(streams, count=_ENTRIES_A_READ, block_ms=block_ms)
        except StoreUnavailable:
            # another server may answer from now on: what it is asked next must not meet the old one
            self._connections.doubt()
            raise
        entries = [(self._feeds[key], _decode(*row)) for key, rows in found if key in self._feeds for row in rows]
        return entries + [
            (self._marks[key], decode_mark(*row)) for key, rows in found if key in self._marks for row in rows
        ]

    async def newest(self, partitions: Collection[int]) -> dict[int, Mark]:
        """Return the newest commit of partitions, whether it may be told or not."""
        pipe = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipe.execute_command("HMGET", self._meta.keys[partition].cursor, "n", "nonce")
        replies = await pipe.execute() if partitions else []
        found = zip(partitions, replies, strict=True)
        return {partition: Mark(int(n or 0), nonce or b"") for partition, (n, nonce) in found}

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


def _decode(place: bytes, fields: Mapping[bytes, bytes]) -> FeedEntry:
    """Read an entry; one that no projector wrote follows nothing and tells nothing, and holds nobody up."""
    try:
        return decode_feed(fields[b"c"])
    except (KeyError, msgspec.MsgspecError):
        return FeedEntry(n=parse_entry_id(place).ms, nonce=b"", entry=START, changes=())


def _number(rows: list[tuple[bytes, Any]]) -> int:
    return parse_entry_id(rows[0][0]).ms if rows else 0
