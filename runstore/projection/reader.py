"""Read events behind the cursors of several partitions, so much at once as memory bears, and wait for the next."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from runstore.adapters.connection import Script
from runstore.adapters.log import parse_entry_id
from runstore.adapters.store import RedisStore
from runstore.adapters.streams import StreamReads
from runstore.core.event import EntryId

Row = tuple[EntryId, Mapping[bytes, bytes]]
_BATCHES_A_READ: Final = 4
_MOST_SINGLES: Final = 8
"""Waits in a row that found one entry at most, after which it is looked whether there are more."""

_READ: Final = Script("""
local most, left, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local all, total = {}, 0
for i, key in ipairs(KEYS) do
  local rows, after = {}, ARGV[3 + i]
  while #rows < most and left > 0 and bytes > 0 do
    local reply = redis.pcall('XRANGE', key, '(' .. after, '+', 'COUNT', 1)
    if reply.err then
      -- nothing can lie behind the largest id, and a server calls it an error to ask
      if not string.find(reply.err, 'interval', 1, true) then rows = reply.err end
      break
    end
    local row = reply[1]
    if not row then break end
    for _, part in ipairs(row[2]) do bytes = bytes - #part end
    if bytes < 0 and total > 0 then break end
    rows[#rows + 1], after = row, row[1]
    left, total = left - 1, total + 1
  end
  all[i] = rows
end
return all
""")


class Found(NamedTuple):
    """What a read brought: rows of partitions, and partitions that cannot be read, with the reason."""

    rows: dict[int, list[Row]]
    unreadable: dict[int, str]


class EventReader:
    """Read the logs, for one who asks for one read at a time.

    How large an entry is shows only when it is read, and one may carry an output of 64 MiB. So entries are counted by a
    script, one by one, until it is enough; the read that waits takes one entry of a partition only. Where events come
    one at a time, nothing lies behind the one that was waited for, and the next wait begins without that count.

    Units: `most_bytes` is what one read does not exceed, unless a single entry does.
    """

    def __init__(self, store: RedisStore, *, most_entries: int, most_bytes: int) -> None:
        self._client = store.client
        self._reads_that_wait = StreamReads(store.blocking)
        self._keys = store.meta.keys
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._reads = 0
        self._singles = 0
        self._waited_for: frozenset[int] = frozenset()
        self._partition_of = {keys.events: keys.partition for keys in store.meta.keys}

    async def read(self, after: Mapping[int, EntryId], block_ms: int) -> Found:
        """Read entries after the places, by partition, waiting so long for one. Raises: StoreUnavailable."""
        singles, self._singles = self._singles, 0
        found = Found({}, {})
        # which logs cannot be read, only the count tells: a wait that names one fails for all
        if after and (block_ms <= 0 or singles % _MOST_SINGLES == 0 or not self._waited_for.issuperset(after)):
            found = await self._take(after)
        if found.rows or block_ms <= 0:
            return found
        waits_for = [partition for partition in after if partition not in found.unreadable]
        if not waits_for:
            await asyncio.sleep(block_ms / 1000)
            return found
        streams = {self._keys[partition].events: str(after[partition]) for partition in waits_for}
        replies = await self._reads_that_wait.read(streams, count=1, block_ms=block_ms)
        found.rows.update({self._partition_of[key]: _rows(rows) for key, rows in replies})
        if len(found.rows) <= 1:
            self._singles, self._waited_for = singles + 1, frozenset(waits_for)
        return found

    async def _take(self, after: Mapping[int, EntryId]) -> Found:
        # each partition is the first one in its turn, so that a large one leaves none of the others with nothing
        self._reads += 1
        begin = self._reads % len(after)
        order = [*list(after)[begin:], *list(after)[:begin]]
        replies = await self._read(order, after)
        found = Found({}, {})
        for partition, reply in zip(order, replies, strict=True):
            if isinstance(reply, bytes):
                found.unreadable[partition] = reply.decode(errors="replace")
            elif reply:
                found.rows[partition] = _rows([(entry_id, _pairs(fields)) for entry_id, fields in reply])
        return found

    async def _read(self, order: Sequence[int], after: Mapping[int, EntryId]) -> list[Any]:
        most, total = self._most_entries, self._most_entries * _BATCHES_A_READ
        if not self._client.is_cluster:
            args: list[bytes | str | int] = [most, total, self._most_bytes]
            args += [str(after[partition]) for partition in order]
            replies: list[Any] = await _READ.run(
                self._client, [self._keys[partition].events for partition in order], args
            )
            return replies
        # no script may read two slots: each partition gets its share
        share = max(1, self._most_bytes // len(order))
        found = await _READ.run_each(
            self._client,
            [([self._keys[partition].events], [most, total, share, str(after[partition])]) for partition in order],
        )
        return [str(reply).encode() if isinstance(reply, Exception) else reply[0] if reply else [] for reply in found]


def _rows(rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Row]:
    return [(parse_entry_id(entry_id), fields) for entry_id, fields in rows]


def _pairs(flat: Sequence[Any]) -> dict[bytes, bytes]:
    if len(flat) == 2:
        return {flat[0]: flat[1]}
    return dict(zip(flat[::2], flat[1::2], strict=True))


def row_bytes(row: Row) -> int:
    """Count the bytes of an entry's values."""
    return sum(map(len, row[1].values()))


def cut(rows: list[Row], *, most_entries: int, most_bytes: int) -> list[list[Row]]:
    """Cut rows into batches, each within the limits or of one entry."""
    batches: list[list[Row]] = []
    size = 0
    for row in rows:
        row_size = row_bytes(row)
        if not batches or len(batches[-1]) >= most_entries or size + row_size > most_bytes:
            batches.append([])
            size = 0
        batches[-1].append(row)
        size += row_size
    return batches
