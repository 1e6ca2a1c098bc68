"""The store as a publisher holds it: opened when first needed, and anew in another event loop or a forked child."""

import asyncio
import os
from typing import TYPE_CHECKING, Final

from runstore.core.cursor import Place
from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.core.partition import partition_of
from runstore.publish.config import PublisherConfig
from runstore.wire.cursor import encode_cursor

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

_abandoned: Final[list[object]] = []
"""Stores of another process or loop. Kept, since to drop them would close connections that are not ours."""


class HeldStore:
    """One store for one event loop of one process."""

    def __init__(self, url: str, config: PublisherConfig) -> None:
        self._url = url
        self._config = config
        self._home: tuple[int, int] | None = None
        self._lock = asyncio.Lock()
        self._store: RedisStore | None = None
        self._epochs: dict[int, tuple[bytes, float]] = {}

    async def get(self) -> "RedisStore":
        """Return the store, opening it where needed.

        Raises: InvalidRequest for a URL that cannot be; StoreUnavailable.
        """
        from runstore.adapters.store import RedisStore

        home = (os.getpid(), id(asyncio.get_running_loop()))
        if home != self._home:
            if self._store is not None:
                _abandoned.append(self._store)
            self._home, self._lock, self._store = home, asyncio.Lock(), None
            self._epochs.clear()
        async with self._lock:
            if self._store is None:
                config = self._config
                self._store = await RedisStore.connect(
                    self._url,
                    durability=config.durability,
                    min_replicas=config.min_replicas,
                    timeout_s=min(5.0, config.timeout_s),
                )
            return self._store

    async def prepare(self, run_id: RunId) -> None:
        """Learn what a cursor of this run's partition needs, where it was not learnt lately.

        Raises: StoreUnavailable.
        """
        store, clock = await self.get(), asyncio.get_running_loop().time
        partition = partition_of(run_id, store.log.partitions)
        known = self._epochs.get(partition)
        if known is None or known[1] < clock():
            epoch = await store.log.epoch(partition)
            self._epochs[partition] = (epoch, clock() + self._config.epoch_s)

    async def cursor(self, run_id: RunId, entry_id: EntryId) -> str:
        """Write the place of an entry as clients take it. Needs: `prepare` before the entry was appended."""
        store = await self.get()
        partition = partition_of(run_id, store.log.partitions)
        epoch, _ = self._epochs[partition]
        return encode_cursor((Place(partition=partition, epoch=epoch, entry=entry_id),))

    def doubt(self) -> None:
        """Take note that the store failed: it may be another one when it is back."""
        self._epochs.clear()

    async def aclose(self) -> None:
        """Close the store where it is this process's and loop's; may be called twice."""
        store, self._store = self._store, None
        if store is not None and self._home == (os.getpid(), id(asyncio.get_running_loop())):
            await store.aclose()
