"""Read events behind the cursors of several partitions in one blocking read, so much at once as memory bears."""

import asyncio
from collections.abc import Mapping
from typing import Final

from runstore.adapters.connection import MAX_BLOCK_MS, StoreClient
from runstore.adapters.feed import stream_replies
from runstore.adapters.log import parse_entry_id
from runstore.adapters.meta import Meta
from runstore.core.event import EntryId

Row = tuple[EntryId, Mapping[bytes, bytes]]
_SMALLEST: Final = 1
_FIRST: Final = 32


class EventReader:
    """Read the logs. How many entries a read may bring follows from how large the last ones were.

    Units: `most_bytes` is what one read should not exceed by much; entries may carry outputs of many MiB.
    """

    def __init__(self, client: StoreClient, meta: Meta, *, most_entries: int, most_bytes: int) -> None:
        self._client = client
        self._meta = meta
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._count = min(_FIRST, most_entries)
        self._partition_of = {keys.events: keys.partition for keys in meta.keys}

    async def read(self, after: Mapping[int, EntryId], block_ms: int) -> dict[int, list[Row]]:
        """Read entries after the places, by partition, waiting so long for one. Raises: StoreUnavailable."""
        if not after:
            await asyncio.sleep(block_ms / 1000)
            return {}
        block = ("BLOCK", min(block_ms, MAX_BLOCK_MS)) if block_ms > 0 else ()
        reply = await self._client.execute_command(
            "XREAD",
            *("COUNT", self._count),
            *block,
            "STREAMS",
            *(self._meta.keys[partition].events for partition in after),
            *(str(entry) for entry in after.values()),
        )
        found: dict[int, list[Row]] = {
            self._partition_of[key]: [(parse_entry_id(entry_id), fields) for entry_id, fields in rows]
            for key, rows in stream_replies(reply)
        }
        self._adapt(found)
        return found

    def _adapt(self, found: Mapping[int, list[Row]]) -> None:
        size = sum(row_bytes(row) for rows in found.values() for row in rows)
        if size > self._most_bytes:
            self._count = max(_SMALLEST, self._count * self._most_bytes // size)
        elif size * 4 < self._most_bytes:
            self._count = min(self._most_entries, self._count * 2)


def row_bytes(row: Row) -> int:
    """Count the bytes of an entry's values."""
    return sum(map(len, row[1].values()))


def cut(rows: list[Row], *, most_entries: int, most_bytes: int) -> list[list[Row]]:
    """Cut rows into batches, each within the limits or of one entry."""
    batches: list[list[Row]] = []
    size = 0
    for row in rows:
        if not batches or len(batches[-1]) >= most_entries or size + row_bytes(row) > most_bytes:
            batches.append([])
            size = 0
        batches[-1].append(row)
        size += row_bytes(row)
    return batches
