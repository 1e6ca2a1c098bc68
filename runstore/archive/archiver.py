"""The archiver: moves ended runs out of Redis, after their time or where memory is asked for, a batch after the other.

A turn writes each run and reads it back, then the rows of the index, then sets the bits of the filter, and only then
removes, by one commit a partition. It may die on any line, and any number of them may do the same: see
`docs/adr/0006`. A lease lets one of several work at a time, to save work.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from heapq import nsmallest
from itertools import chain
from logging import getLogger
from secrets import token_hex
from time import monotonic
from typing import Final, NamedTuple

from runstore.adapters import leaving, tombstones
from runstore.adapters.keeping import Turn, now_ms, used_bytes
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.partition import by_partition
from runstore.core.run import Run, end_ms
from runstore.lifecycle import OneTask
from runstore.wire.keys import ARCHIVER, PartitionKeys
from runstore.wire.record import Record

_MAX_BACKOFF_S: Final = 60.0
_LEASE_MS: Final = 60_000
_log = getLogger("runstore.archive")


class Moved(NamedTuple):
    """What a turn did: runs that left, and runs that could not be moved."""

    moved: int = 0
    failed: int = 0


class Archiver(OneTask):
    """Move ended runs of a store into its archive, alone or beside others."""

    def __init__(self, store: RedisStore, archive: Archive) -> None:
        self._store = store
        self._archive = archive
        self._config = archive.config
        self._budget = archive.config.memory_bytes
        self._turn = Turn(store.client, ARCHIVER, token_hex(8), lease_ms=_LEASE_MS)
        self._at_once = asyncio.Semaphore(archive.config.at_once)
        self._has_turn = False
        self.moved = 0
        self.failed = 0
        self.turns_failed = 0
        self._well_at = monotonic()

    @property
    def idle_s(self) -> float:
        """How long ago a turn did all it was to do, or this was made."""
        return monotonic() - self._well_at

    async def start(self) -> None:
        """Begin to take turns."""
        self._begin(self._move_forever(), "runstore-archiver")

    async def stop(self) -> None:
        """Stop, and leave the turn to others; may be called twice."""
        await super().stop()
        if self._task is not None:
            with suppress(RunstoreError, TimeoutError):
                await asyncio.wait_for(self._turn.leave(), self._store.connections.timeout_s)

    async def turn(self) -> Moved:
        """Move what is past its time, then what memory is asked for; nothing while another archiver is at it.

        Raises: StoreUnavailable.
        """
        if not await self._turn.take():
            return Moved()
        self._has_turn = True
        try:
            moved = await self.move_due()
            if not moved.failed:
                self._well_at = monotonic()
            return moved
        finally:
            self._has_turn = False
            await self._turn.leave()

    async def move_due(self) -> Moved:
        """Move what is past its time, then what memory is asked for, whoever else may be at it.

        Raises: StoreUnavailable.
        """
        moved = Moved()
        if self._config.retention_s is not None:
            moved = _sum(moved, await self.move(self._config.retention_s))
        if self._budget is not None:
            moved = _sum(moved, await self._make_room(self._budget))
        return moved

    async def move(self, ended_s: float) -> Moved:
        """Move all runs that ended so long ago; none that ended less than `youngest_s` ago.

        Raises: StoreUnavailable.
        """
        upto_ms = await now_ms(self._store.client) - round(max(ended_s, self._config.youngest_s) * 1000)
        total = Moved()
        while True:
            done = await self.move_batch(await self._oldest(upto_ms, self._config.batch_runs))
            total = _sum(total, done)
            if not done.moved:
                return total
            await self._renew()

    async def move_batch(self, records: Sequence[Record]) -> Moved:
        """Move these runs, if they are still what was read.

        Raises: StoreUnavailable; some may have been moved.
        """
        written = [record for record in await asyncio.gather(*map(self._write, records)) if record is not None]
        if written:
            await self._archive.write_rows([record.run for record in written])
        leavers = by_partition(written, self._store.meta.partitions, lambda record: record.run.run_id)
        total = Moved(0, len(records) - len(written))
        for done in await asyncio.gather(*(self._try_remove(partition, some) for partition, some in leavers.items())):
            total = _sum(total, done)
        self.moved += total.moved
        self.failed += total.failed
        return total

    async def _write(self, record: Record) -> Record | None:
        """Write a run; None where that failed, or it is gone. It stays where it is then, and others go."""
        run_id = record.run.run_id
        try:
            async with self._at_once:
                whole = await leaving.read_whole(self._store, run_id)
                if whole is None:
                    return None
                await self._archive.write(whole)
        except StoreUnavailable as error:
            _log.error("run_not_archived", extra={"run_id": run_id, "reason": error.detail})
            return None
        return whole.record

    async def _try_remove(self, partition: int, records: Sequence[Record]) -> Moved:
        """Remove runs of one partition; what goes wrong there holds up no other."""
        try:
            return Moved(await self._remove(partition, records))
        except StoreUnavailable as error:
            _log.error("runs_not_removed", extra={"partition": partition, "reason": error.detail})
            return Moved(0, len(records))

    async def _remove(self, partition: int, records: Sequence[Record]) -> int:
        keys = self._store.meta.keys[partition]
        newest: dict[str, int] = {}
        for record in records:
            newest[record.run.project_name] = max(record.run.created_ms, newest.get(record.run.project_name, 0))
        run_ids = [record.run.run_id for record in records]
        last_ms = max(end_ms(record.run) for record in records)
        await tombstones.add(self._store.client, keys, run_ids, end_ms=last_ms, newest_ms=newest)
        gone = set(await leaving.remove(self._store, keys, records))
        await self._clean_up([record.run for record in records if record.run.run_id not in gone])
        return len(gone)

    async def _clean_up(self, runs: Sequence[Run]) -> None:
        """Take back what was written of runs that somebody erased meanwhile."""
        found = await self._store.runs.get_many([run.run_id for run in runs])
        lost = [run for run, record in zip(runs, found, strict=True) if record is None]
        await self._archive.expunge([run for run in lost if await self._archive.is_erased(run.run_id)])

    async def _oldest(self, upto_ms: int, count: int) -> list[Record]:
        """Find the runs that may leave and were created first."""

        async def of(keys: PartitionKeys) -> list[Record]:
            return [record async for record in leaving.ended_runs(self._store, keys, upto_ms=upto_ms, most=count)]

        found = await asyncio.gather(*map(of, self._store.meta.keys))
        return nsmallest(count, chain.from_iterable(found), key=lambda record: _age(record.run))

    async def _make_room(self, budget: int) -> Moved:
        total = Moved()
        while (used := await used_bytes(self._store.client)) > budget:
            upto_ms = await now_ms(self._store.client) - round(self._config.youngest_s * 1000)
            records = await self._oldest(upto_ms, self._config.batch_runs)
            done = await self.move_batch(records)
            total = _sum(total, done)
            if not done.moved:
                _log.warning("memory_over_budget", extra={"used": used, "budget": budget, "runs": len(records)})
                break
            await self._renew()
        return total

    async def _renew(self) -> None:
        if self._has_turn:
            await self._turn.take()

    async def _move_forever(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(self._config.every_s + min(failures, 1) * min(2.0**failures, _MAX_BACKOFF_S))
            try:
                moved = await self.turn()
                failures = failures + 1 if moved.failed else 0
                if moved.moved or moved.failed:
                    _log.info("runs_archived", extra=moved._asdict())
            except Exception as error:  # noqa: BLE001 - whatever it was, the next turn does it again
                failures += 1
                self.turns_failed += 1
                reason = error.detail if isinstance(error, RunstoreError) else f"{type(error).__name__}: {error}"
                _log.error("archiving_failed", extra={"failures": failures, "reason": reason})


def _age(run: Run) -> tuple[int, RunId]:
    return run.created_ms, run.run_id


def _sum(one: Moved, other: Moved) -> Moved:
    return Moved(one.moved + other.moved, one.failed + other.failed)
