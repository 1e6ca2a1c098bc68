"""The store: every port over one Redis, opened in one place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self

from runstore.adapters.connection import StoreClient
from runstore.adapters.connections import Connections
from runstore.adapters.durability import Durability, Safety
from runstore.adapters.feed import RedisFeed
from runstore.adapters.log import RedisLog
from runstore.adapters.meta import Meta, load_meta
from runstore.adapters.outputs import RedisOutputs
from runstore.adapters.runs import RedisRuns

if TYPE_CHECKING:
    from runstore.adapters.logs import RedisRunLogs
    from runstore.adapters.served import RedisServed
    from runstore.adapters.signing_keys import RedisSigningKeys
    from runstore.adapters.tokens import RedisTokens


class RedisStore:
    """The ports over one Redis. Adapters made later are given `client`, `blocking` and `meta`."""

    def __init__(self, connections: Connections, meta: Meta, safety: Safety) -> None:
        self.connections = connections
        self.meta = meta
        self.safety = safety
        self.log = RedisLog(connections.client, meta, safety)
        self.runs = RedisRuns(connections.client, meta)
        self.outputs = RedisOutputs(connections.client, meta)
        self.feed = RedisFeed(connections, meta, self.log)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        durability: Durability | str = Durability.ACKNOWLEDGED,
        min_replicas: int = 1,
        partitions: int | None = None,
        timeout_s: float = 5.0,
        max_connections: int = 32,
    ) -> Self:
        """Connect to a store, creating it in an empty Redis (with so many partitions, 16 unless told).

        Needs: `aclose` afterwards.

        Raises: InvalidRequest for a URL or number that cannot be; StoreUnavailable.
        """
        connections = Connections(url, timeout_s=timeout_s, max_connections=max_connections)
        try:
            await connections.ping()
            meta = await load_meta(connections.client, partitions)
        except BaseException:
            await connections.aclose()
            raise
        wait_ms = max(1, round(timeout_s * 800))
        safety = Safety(durability=Durability(durability), min_replicas=min_replicas, wait_ms=wait_ms)
        return cls(connections, meta, safety)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        durability: Durability | str = Durability.ACKNOWLEDGED,
        min_replicas: int = 1,
        partitions: int | None = None,
        timeout_s: float = 5.0,
        max_connections: int = 32,
    ) -> AsyncIterator[Self]:
        """Hold a store for the length of an `async with`; arguments as for `connect`."""
        store = await cls.connect(
            url,
            durability=durability,
            min_replicas=min_replicas,
            partitions=partitions,
            timeout_s=timeout_s,
            max_connections=max_connections,
        )
        try:
            yield store
        finally:
            await store.aclose()

    @property
    def client(self) -> StoreClient:
        """The client for commands that answer at once; used by adapters only."""
        return self.connections.client

    @property
    def blocking(self) -> StoreClient:
        """The client for reads that wait, up to `connection.MAX_BLOCK_MS`; used by adapters only."""
        return self.connections.blocking

    @cached_property
    def tokens(self) -> "RedisTokens":
        """API tokens."""
        from runstore.adapters.tokens import RedisTokens

        return RedisTokens(self.client)

    @cached_property
    def signing_keys(self) -> "RedisSigningKeys":
        """The keys that run tokens are signed with."""
        from runstore.adapters.signing_keys import RedisSigningKeys

        return RedisSigningKeys(self.client)

    @cached_property
    def served(self) -> "RedisServed":
        """Projects that workers serve, and control of the runs they hold."""
        from runstore.adapters.served import RedisServed

        return RedisServed(self)

    @cached_property
    def logs(self) -> "RedisRunLogs":
        """The stdout and stderr of runs, as they come."""
        from runstore.adapters.logs import RedisRunLogs

        return RedisRunLogs(self)

    async def ping(self) -> None:
        """Check that the primary answers. Raises: StoreUnavailable."""
        await self.connections.ping()

    async def dead_letters(self) -> int:
        """Count the dead letters of all partitions. Raises: StoreUnavailable."""
        asked = (self.client.execute_command("XLEN", keys.dead) for keys in self.meta.keys)
        return sum(await asyncio.gather(*asked))

    async def aclose(self) -> None:
        """Close every connection; may be called twice."""
        await self.connections.aclose()
