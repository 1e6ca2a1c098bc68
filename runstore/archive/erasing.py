"""Erase a run, or a project, everywhere and for good; done again, it ends what was broken off.

First what keeps a late event from beginning the run again, then the archive, then Redis with a new epoch, by which
gateways forget what they kept and subscribers are told to look again, then what the log, the dead letters and the feed
tell of it. What stays is a hash of the id, and the line of the audit.
"""

import asyncio
import getpass
import os
import socket
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Final

import msgspec

from runstore.adapters import erasure, leaving, numbers, tombstones
from runstore.adapters.keeping import Turn, now_ms
from runstore.adapters.records import get_records
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.restoring import archived_projects
from runstore.core.errors import InvalidRequest, RunNotFound, StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.partition import by_partition
from runstore.core.times import to_iso
from runstore.wire.archive import AUDIT, INDEX, RUNS, deleted_name, project_folder
from runstore.wire.keys import ARCHIVER, ERASER
from runstore.wire.record import Record

_LEASE_MS: Final = 600_000
_AT_ONCE: Final = 500
_PATIENCE_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.2


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """The line of the audit: what was erased, when and by whom, and how much of it was where."""

    at: str
    by: str
    run_id: str | None
    project_name: str
    runs: int
    in_redis: int
    log_entries: int


class Eraser:
    """Erase from a store and its archive, one eraser at a time."""

    def __init__(self, store: RedisStore, archive: Archive) -> None:
        self._store = store
        self._archive = archive
        self._turns = [Turn(store.client, key, token_hex(8), lease_ms=_LEASE_MS) for key in (ERASER, ARCHIVER)]

    async def run(self, run_id: RunId) -> Erased:
        """Erase one run.

        Raises: RunNotFound; InvalidRequest where it has not ended; StoreUnavailable, after which it is to be repeated.
        """
        await self._begin()
        try:
            [record] = await get_records(self._store.client, self._store.meta, [run_id])
            head = await self._archive.find(run_id, await archived_projects(self._store))
            if record is not None:
                _check_ended([record])
            run = record.run if record is not None else head.record.run if head is not None else None
            if run is None and not await self._archive.objects.has(deleted_name(run_id)):
                raise RunNotFound(f"there is no run {run_id}")
            await self._bury([run_id])
            project = run.project_name if run is not None else ""
            if run is not None:
                await self._archive.expunge([run])
            gone, entries = await self._out_of_redis([run_id], [record] if record is not None else [], project=None)
            return await self._told(run_id, project, runs=1, in_redis=gone, entries=entries)
        finally:
            await self._end()

    async def project(self, name: str) -> Erased:
        """Erase every run of a project, and the project's own name.

        Raises: RunNotFound where nothing is known of it; InvalidRequest where a run of it has not ended;
        StoreUnavailable, after which it is to be repeated.
        """
        await self._begin()
        try:
            records: list[Record] = []
            for keys in self._store.meta.keys:
                records += await leaving.runs_of_project(self._store, keys, name)
            _check_ended(records)
            here = [record.run.run_id for record in records]
            there = [run_id async for run_id in self._archive.each_run(name)]
            is_known = await self._counts(name)
            if not here and not there and not is_known:
                raise RunNotFound(f"there is no project {name!r}")
            everything = sorted({*here, *there})
            for begin in range(0, len(everything), _AT_ONCE):
                await self._bury(everything[begin : begin + _AT_ONCE])
            gone, entries = await self._out_of_redis(everything, records, project=name)
            folder = project_folder(name)
            for top in (INDEX, RUNS):
                await self._archive.objects.delete([n async for n in self._archive.objects.names(f"{top}/{folder}")])
            told = await self._told(None, name, runs=len(everything), in_redis=gone, entries=entries)
            await numbers.erase(self._store.client, name)
            # last, for by this a delete that was broken off is known to be one; and gateways may have read on meanwhile
            for keys in self._store.meta.keys:
                await erasure.erase(self._store, keys, [], project=name)
            return told
        finally:
            await self._end()

    async def _begin(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for turn in self._turns:
                    while not await turn.take():  # noqa: ASYNC110 - another process holds it
                        await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            await self._end()
            raise StoreUnavailable(
                "the archive is at work: try again in a minute, or ten after a broken delete"
            ) from None

    async def _end(self) -> None:
        self._archive.forget()
        for turn in self._turns:
            await turn.leave()

    async def _bury(self, run_ids: Sequence[RunId]) -> None:
        """Let no event begin these runs again."""
        for run_id in run_ids:
            await self._archive.put(deleted_name(run_id), tombstones.trace_of(run_id))
        for partition, some in self._by_partition(run_ids).items():
            keys = self._store.meta.keys[partition]
            await tombstones.add(self._store.client, keys, some, end_ms=0, newest_ms={})

    async def _out_of_redis(
        self, run_ids: Sequence[RunId], records: Sequence[Record], *, project: str | None
    ) -> tuple[int, int]:
        found = self._by_partition(run_ids)
        partitions = range(self._store.meta.partitions) if project is not None else found
        gone = entries = 0
        for partition in partitions:
            keys, ours = self._store.meta.keys[partition], frozenset(found.get(partition, ()))
            leavers = [record for record in records if record.run.run_id in ours]
            upto = await erasure.erase(self._store, keys, leavers, project=None)
            entries += await erasure.scrub(self._store, keys, ours, project=project, upto=upto)
            gone += len(leavers)
        return gone, entries

    def _by_partition(self, run_ids: Sequence[RunId]) -> dict[int, list[RunId]]:
        return by_partition(run_ids, self._store.meta.partitions, lambda run_id: run_id)

    async def _counts(self, name: str) -> bool:
        pipe = self._store.client.pipeline(transaction=False)
        for keys in self._store.meta.keys:
            pipe.execute_command("HEXISTS", keys.projects, name)
        return any(await pipe.execute())

    async def _told(self, run_id: RunId | None, project: str, *, runs: int, in_redis: int, entries: int) -> Erased:
        at_ms = await now_ms(self._store.client)
        told = Erased(
            at=to_iso(at_ms * 1000),
            by=_who(),
            run_id=run_id,
            project_name=project,
            runs=runs,
            in_redis=in_redis,
            log_entries=entries,
        )
        await self._archive.put(f"{AUDIT}/{at_ms:015d}-{token_hex(4)}.json", msgspec.json.encode(told))
        return told


def _check_ended(records: Iterable[Record]) -> None:
    running = [record.run.run_id for record in records if not record.run.is_terminal]
    if running:
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        raise InvalidRequest(f"the run {running[0]}{more} has not ended: cancel what runs before it is erased")


def _who() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
