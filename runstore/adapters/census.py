"""What is to be counted in some partitions of a store now and then: what waits, what is held, what is dead."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from runstore.adapters.cluster import ClusterClient
from runstore.adapters.connection import StoreClient
from runstore.adapters.diagnosis import behind_of
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.status import Status
from runstore.wire.keys import PartitionKeys

MOST_PROJECTS: Final = 1_000
OPEN: Final = (Status.PENDING, Status.RUNNING)
_AT_ONCE: Final = 500
_PARTS_AT_ONCE: Final = 8
"""Well below the connections that there are, which commits need."""
_NOT_TOLD_S: Final = 60.0


class Census(msgspec.Struct, kw_only=True):
    """Sums over some partitions. None: the store has too many projects, or the server does not say.

    Units: milliseconds by the store's clock; bytes of the fullest server.
    """

    waiting: int = 0
    oldest_waiting_ms: int = 0
    dead: int = 0
    leases: int = 0
    overdue_ms: int = 0
    open_runs: dict[Status, int] | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None


class Counting:
    """Takes the census of a store."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._client = store.client
        self._ask_memory_at_s = 0.0

    async def take(self, partitions: Sequence[int]) -> Census:
        """Count in some partitions. Raises: StoreUnavailable."""
        seconds, micros = await self._client.execute_command("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        census = Census()
        parts = [self._store.meta.keys[partition] for partition in partitions]
        for first in range(0, len(parts), _PARTS_AT_ONCE):
            some = parts[first : first + _PARTS_AT_ONCE]
            await asyncio.gather(*(_count(self._client, keys, census, now_ms) for keys in some))
        census.open_runs = await _open_runs(self._client, parts)
        await self._weigh(census)
        return census

    async def _weigh(self, census: Census) -> None:
        """Look at the memory of the server, in a cluster of the one that is nearest to its limit."""
        if monotonic() < self._ask_memory_at_s:
            return
        client, fullest = self._client, -1.0
        servers: list[StoreClient] = [client]
        if isinstance(client, ClusterClient):
            servers = [client.at(place) for place in sorted(client.primaries)]
        for server in servers:
            try:
                info = await server.execute_command("INFO", "memory")
            except StoreUnavailable:
                # not for this user, or a stand-in that does not know it: not a thing to ask at every turn
                self._ask_memory_at_s = monotonic() + _NOT_TOLD_S
                continue
            used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
            share = used / limit if limit else 0.0
            if share > fullest:
                fullest, census.memory_bytes, census.memory_limit_bytes = share, used, limit or None


async def _count(client: StoreClient, keys: PartitionKeys, census: Census, now_ms: int) -> None:
    entry = await client.execute_command("HGET", keys.cursor, "entry")
    waiting, oldest_ms, _ = await behind_of(client, keys, entry)
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("XLEN", keys.dead)
    pipe.execute_command("ZCARD", keys.leases)
    pipe.execute_command("ZRANGE", keys.leases, 0, 0, "WITHSCORES")
    dead, leases, oldest = await pipe.execute(raise_on_error=False)
    census.waiting += waiting
    if oldest_ms is not None:
        census.oldest_waiting_ms = max(census.oldest_waiting_ms, now_ms - oldest_ms)
    census.dead += dead if isinstance(dead, int) else 0
    census.leases += leases if isinstance(leases, int) else 0
    until_ms = _first_score(oldest)
    if until_ms is not None:
        census.overdue_ms = max(census.overdue_ms, round(now_ms - until_ms))


async def _open_runs(client: StoreClient, parts: Sequence[PartitionKeys]) -> dict[Status, int] | None:
    """Count the runs that have not ended: two questions for each project and partition, so not for any number."""
    asked: list[tuple[Status, bytes]] = []
    for keys in parts:
        if await client.execute_command("HLEN", keys.projects) > MOST_PROJECTS:
            return None
        for name in await client.execute_command("HKEYS", keys.projects):
            asked += [(status, keys.status(name.decode(errors="replace"), status)) for status in OPEN]
    counts = dict.fromkeys(OPEN, 0)
    for first in range(0, len(asked), _AT_ONCE):
        some = asked[first : first + _AT_ONCE]
        pipe = client.pipeline(transaction=False)
        for _, key in some:
            pipe.execute_command("ZCARD", key)
        for (status, _), number in zip(some, await pipe.execute(raise_on_error=False), strict=True):
            counts[status] += number if isinstance(number, int) else 0
    return counts


def _first_score(rows: Any) -> float | None:
    if not isinstance(rows, list) or not rows:
        return None
    first = rows[0]
    return float(first[1] if isinstance(first, (tuple, list)) else rows[1])
