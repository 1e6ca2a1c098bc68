"""The store as a publisher holds it: opened when first needed, and anew in another event loop or a forked child."""

import asyncio
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from runstore.core.cursor import Place
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.core.partition import partition_of
from runstore.publish.config import PublisherConfig
from runstore.wire.cursor import encode_cursor

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

_abandoned: Final[list[object]] = []
"""Stores of another process or loop that lives. Kept, since to drop them would close connections that are not ours."""


class Ready(NamedTuple):
    """An open store, and where the events of one run go: what a cursor of theirs is made of."""

    store: "RedisStore"
    partition: int
    epoch: bytes

    def cursor(self, entry_id: EntryId) -> str:
        """Write the place of an entry as clients take it."""
        return encode_cursor((self.place(entry_id),))

    def place(self, entry_id: EntryId) -> Place:
        """Return the place of an entry."""
        return Place(partition=self.partition, epoch=self.epoch, entry=entry_id)


class HeldStore:
    """One store for one event loop of one process."""

    def __init__(self, url: str, config: PublisherConfig) -> None:
        self._url = url
        self._config = config
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._lock = asyncio.Lock()
        self._store: RedisStore | None = None
        self._epochs: dict[int, tuple[bytes, float]] = {}

    async def store(self) -> "RedisStore":
        """Return the store, opening it where needed.

        Raises: InvalidRequest for a URL that cannot be; StoreUnavailable.
        """
        home = (os.getpid(), asyncio.get_running_loop())
        if home != self._home:
            if self._store is not None and self._home is not None and not self._home[1].is_closed():
                _abandoned.append(self._store)
            self._home, self._lock, self._store = home, asyncio.Lock(), None
            self._epochs.clear()
        return self._store or await self._open()

    async def ready(self, run_ids: Iterable[RunId]) -> list[Ready | StoreUnavailable]:
        """Return for each run the store with the epoch of its partition, asked for lately, or why there is none.

        Raises: InvalidRequest for a URL that cannot be; StoreUnavailable.
        """
        store = await self.store()
        clock = asyncio.get_running_loop().time
        partitions = [partition_of(run_id, store.log.partitions) for run_id in run_ids]
        now = clock()
        known = {
            partition: kept
            for partition in set(partitions)
            if (kept := self._epochs.get(partition)) is not None and kept[1] > now
        }
        found: dict[int, bytes | StoreUnavailable] = {partition: epoch for partition, (epoch, _) in known.items()}
        if asked := set(partitions) - known.keys():
            lately = await store.log.epochs(asked)
            found.update(lately)
            until = clock() + self._config.epoch_s
            self._epochs.update((each, (epoch, until)) for each, epoch in lately.items() if isinstance(epoch, bytes))
        return [
            Ready(store, partition, epoch) if isinstance(epoch := found[partition], bytes) else epoch
            for partition in partitions
        ]

    def at_hand(self, run_id: RunId) -> Ready | None:
        """Return what `ready` would for one run, where nothing has to be asked for; else None."""
        loop = asyncio.get_running_loop()
        if self._store is None or self._home != (os.getpid(), loop):
            return None
        partition = partition_of(run_id, self._store.log.partitions)
        kept = self._epochs.get(partition)
        return Ready(self._store, partition, kept[0]) if kept is not None and kept[1] > loop.time() else None

    def doubt(self) -> None:
        """Take note that the store failed: it may be another one when it is back."""
        self._epochs.clear()
        if self._store is not None:
            self._store.connections.doubt()

    async def aclose(self) -> None:
        """Close the store where it is this process's and loop's; may be called twice."""
        store, self._store = self._store, None
        if store is not None and self._home == (os.getpid(), asyncio.get_running_loop()):
            await store.aclose()

    async def _open(self) -> "RedisStore":
        from runstore.adapters.store import RedisStore

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
