"""Let a Redis that was emptied or replaced know again what the archive has: the filter, the projects, the run numbers.

Everything is learnt from the archive alone, and learning it again changes nothing: it may be broken off at any line and
begun anew. The archiver and deletes wait meanwhile.
"""

from collections.abc import Sequence
from secrets import token_hex
from typing import Final

import msgspec

from runstore.adapters import numbers, tombstones
from runstore.adapters.keeping import Turn
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.partition import by_partition
from runstore.core.run import Run, end_ms
from runstore.wire.archive import DELETED, RUNS
from runstore.wire.keys import ARCHIVER

_LEASE_MS: Final = 600_000
_AT_ONCE: Final = 500
_BUSY: Final = "the archive is at work: try again in a minute, or ten after a command that was broken off"


class Reindexed(msgspec.Struct, kw_only=True):
    """What was learnt: runs and projects of the archive, how many were new here, and rows that it lacked.

    `erased_unknown` are runs that were erased by a version that left too little to know them by.
    """

    projects: int = 0
    runs: int = 0
    learnt: int = 0
    rows_written: int = 0
    erased: int = 0
    erased_unknown: int = 0


class Reindexer:
    """Reads a whole archive, and tells a store what is in it."""

    def __init__(self, store: RedisStore, archive: Archive) -> None:
        self._store = store
        self._archive = archive
        self._turn = Turn(store.client, ARCHIVER, token_hex(8), lease_ms=_LEASE_MS)
        self._done = Reindexed()

    async def run(self) -> Reindexed:
        """Read all of it.

        Raises: StoreUnavailable, after which it is to be repeated.
        """
        await self._renew()
        try:
            for folder in await self._archive.objects.folders(RUNS):
                await self._project(folder)
            await self._erased()
            return self._done
        finally:
            await self._turn.leave()

    async def _renew(self) -> None:
        if not await self._turn.take():
            raise StoreUnavailable(_BUSY)

    async def _project(self, folder: str) -> None:
        name = await self._archive.project_of(folder)
        if name is None:
            return
        self._done.projects += 1
        for day in await self._archive.days(name):
            for segment in await self._archive.segments(name, day):
                rows = await self._archive.rows(segment)
                if rows is not None:
                    await self._learn(name, rows.runs)
        await self._without_rows(name)

    async def _without_rows(self, name: str) -> None:
        """Find objects that no row tells of: their run was on its way out when Redis was lost, and only they have it.

        One in a thousand is taken for known. It is found by its id all the same, and by a prefix.
        """
        batch: list[RunId] = []
        async for run_id in self._archive.each_run(name):
            batch.append(run_id)
            if len(batch) == _AT_ONCE:
                await self._write_rows(name, batch)
                batch = []
        await self._write_rows(name, batch)

    async def _write_rows(self, name: str, run_ids: Sequence[RunId]) -> None:
        await self._renew()
        known = await self._known(run_ids)
        heads = [await self._archive.head(name, run_id) for run_id in run_ids if run_id not in known]
        runs = [head.record.run for head in heads if head is not None]
        if runs:
            await self._archive.write_rows(runs)
            self._done.rows_written += len(runs)
            await self._learn(name, runs)

    async def _learn(self, name: str, runs: Sequence[Run]) -> None:
        await self._renew()
        self._done.runs += len(runs)
        for partition, here in by_partition(runs, self._store.meta.partitions, lambda run: run.run_id).items():
            keys, run_ids = self._store.meta.keys[partition], list(dict.fromkeys(run.run_id for run in here))
            known = frozenset(await tombstones.perhaps(self._store.client, keys, run_ids))
            await tombstones.add(
                self._store.client,
                keys,
                [run_id for run_id in run_ids if run_id not in known],
                end_ms=max(map(end_ms, here)),
                newest_ms={name: max(run.created_ms for run in here)},
            )
            self._done.learnt += len(here) - len(known)
        last = max((run.run_number or 0 for run in runs), default=0)
        if last:
            await numbers.raise_to(self._store.client, name, last)

    async def _known(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        found: list[RunId] = []
        for partition, some in by_partition(run_ids, self._store.meta.partitions, lambda run_id: run_id).items():
            found += await tombstones.perhaps(self._store.client, self._store.meta.keys[partition], some)
        return frozenset(found)

    async def _erased(self) -> None:
        """Know again what was erased, by the traces that the archive keeps: hashes, and no ids."""
        async for name in self._archive.objects.names(DELETED):
            await self._renew()
            trace = tombstones.read_trace(await self._archive.objects.get(name) or b"")
            if trace is None:
                self._done.erased_unknown += 1
                continue
            await tombstones.add_trace(self._store.client, self._store.meta.keys, trace)
            self._done.erased += 1
