"""The archive by name: a run, a stretch of the index. What is read is checked; what is written, read back."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Final, TypeVar

import msgspec

from runstore.adapters.leaving import Whole
from runstore.adapters.objects import Objects
from runstore.archive.config import ArchiveConfig
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.run import Run, end_ms
from runstore.wire.archive import (
    HOUR_MS,
    LOGS,
    Damaged,
    Head,
    Rows,
    Segment,
    check_part,
    day_folder,
    day_of,
    days_folder,
    deleted_name,
    head_bytes,
    pack_logs,
    pack_rows,
    pack_run,
    prefix_folder,
    read_day,
    read_head,
    read_segment,
    run_name,
    segment_name,
    unpack_logs,
    unpack_parts,
    unpack_rows,
)

T = TypeVar("T")
_FIRST_BYTES: Final = 64 * 1024
_TRIES: Final = 2


class Archive:
    """One archive. Every method may raise StoreUnavailable, also where an object is damaged."""

    def __init__(self, objects: Objects, config: ArchiveConfig) -> None:
        self.objects = objects
        self.config = config
        self.found = 0
        self.written = 0
        self._at_once = asyncio.Semaphore(config.at_once)
        self._heads: OrderedDict[RunId, tuple[Head, int]] = OrderedDict()
        self._heads_bytes = 0
        self._generation = 0

    async def write(self, whole: Whole) -> None:
        """Write a run's object, and read it back."""
        run = whole.record.run
        packed, parts = to_bytes(run.run_id), dict(whole.parts)
        if whole.logs:
            parts[LOGS] = pack_logs(whole.logs)
        body = pack_run(packed, run.project_name, whole.fields, parts)
        await self._put(run_name(run.project_name, packed), body)
        self.written += 1

    async def write_rows(self, runs: Sequence[Run]) -> None:
        """Write rows of the index, an object for each project and hour, and read them back."""
        stretches: dict[tuple[str, int], list[Run]] = {}
        for run in runs:
            stretches.setdefault((run.project_name, run.created_ms // HOUR_MS), []).append(run)
        for (project, _), rows in stretches.items():
            rows.sort(key=lambda run: (run.created_ms, run.run_id), reverse=True)
            name = segment_name(project, rows, map(end_ms, rows), token_hex(6))
            await self._put(name, pack_rows(rows))

    async def head(self, project: str, run_id: RunId) -> Head | None:
        """Read the head of a run of a project; None where it is not here."""
        kept = self._heads.get(run_id)
        if kept is not None and kept[0].project_name == project:
            self._heads.move_to_end(run_id)
            return kept[0]
        generation, name = self._generation, run_name(project, to_bytes(run_id))
        async with self._at_once:
            begin = await self.objects.range(name, 0, _FIRST_BYTES)
            if begin is None:
                return None
            size = _sound(name, head_bytes, begin)
            if size > len(begin):
                begin = await self.objects.range(name, 0, size) or begin
        head = _sound(name, read_head, begin)
        if generation == self._generation:
            self._keep(run_id, head, size)
        self.found += 1
        return head

    async def find(self, run_id: RunId, projects: Iterable[str]) -> Head | None:
        """Read the head of a run that is one of some projects'; None where it is not here."""
        names = list(projects)
        kept = self._heads.get(run_id)
        if kept is not None and kept[0].project_name in names:
            return kept[0]
        heads = await asyncio.gather(*(self.head(project, run_id) for project in names))
        return next((head for head in heads if head is not None), None)

    async def is_known(self, run_id: RunId, projects: Collection[str]) -> bool:
        """Whether a run is here or was erased."""
        if await self.find(run_id, projects) is not None:
            return True
        return await self.is_erased(run_id)

    async def ids(self, project: str, digits: str, limit: int) -> list[RunId]:
        """Name runs of a project by their first digits, four or more, in order."""
        folder = prefix_folder(project, digits)
        found: list[RunId] = []
        # no digit sorts behind a g: all that begins with less than these digits is passed over
        after = f"{folder}/{digits[:-1]}{chr(ord(digits[-1]) - 1)}g"
        async for name in self.objects.names(folder, after=after):
            last = name.rpartition("/")[2]
            if last < digits:
                continue
            if not last.startswith(digits) or len(found) == limit:
                break
            found.append(from_bytes(bytes.fromhex(last)))
        return found

    async def part(self, head: Head, name: bytes) -> bytes | None:
        """Read one part of a run; None where it was not there when the run left."""
        part = head.part(name)
        if part is None:
            return None
        where, start = run_name(head.project_name, head.packed_id), head.parts_at + part.start
        async with self._at_once:
            body = await self.objects.range(where, start, start + part.length) if part.length else b""
        return _sound(where, lambda found: check_part(part, found), body) if body is not None else None

    async def logs(self, head: Head) -> list[tuple[bytes, bytes, bytes]]:
        """Read the log stream of a run: place, code and text of each piece."""
        body = await self.part(head, LOGS)
        return unpack_logs(body) if body is not None else []

    async def whole(self, project: str, run_id: RunId) -> tuple[Head, dict[bytes, bytes]] | None:
        """Read all of a run; None where it is not here."""
        name = run_name(project, to_bytes(run_id))
        body = await self.objects.get(name)
        if body is None:
            return None
        head = _sound(name, read_head, body)
        return head, _sound(name, lambda found: unpack_parts(head, found), body)

    async def days(self, project: str) -> list[int]:
        """Name the days that there are rows of a project for, latest first."""
        folders = await self.objects.folders(days_folder(project))
        return sorted((day for name in folders if (day := read_day(name)) is not None), reverse=True)

    async def segments(self, project: str, day: int) -> list[Segment]:
        """Name the objects that hold a day's rows of a project, newest first."""
        names = [name async for name in self.objects.names(day_folder(project, day))]
        return [found for name in names if (found := read_segment(name)) is not None]

    async def rows(self, segment: Segment) -> Rows | None:
        """Read rows of the index; None where they are not there any more."""
        async with self._at_once:
            body = await self.objects.get(segment.name)
        return _sound(segment.name, unpack_rows, body) if body is not None else None

    async def expunge(self, runs: Sequence[Run]) -> None:
        """Take runs out of the archive: their rows, and then their objects."""
        for run in runs:
            await self.unindex(run.project_name, {day_of(run.created_ms): frozenset([run.run_id])})
            await self.objects.delete([run_name(run.project_name, to_bytes(run.run_id))])
        self.forget()

    async def is_erased(self, run_id: RunId) -> bool:
        """Whether a run was erased."""
        return await self.objects.has(deleted_name(run_id))

    async def unindex(self, project: str, doomed: Mapping[int, frozenset[RunId]]) -> None:
        """Take runs out of the index, by the days on which they were created."""
        for day, run_ids in doomed.items():
            for segment in await self.segments(project, day):
                rows = await self.rows(segment)
                if rows is None or not any(run.run_id in run_ids for run in rows.runs):
                    continue
                kept = [run for run in rows.runs if run.run_id not in run_ids]
                if kept:
                    name = segment_name(project, kept, map(end_ms, kept), token_hex(6))
                    cut = tuple(packed for packed in rows.cut if from_bytes(packed) not in run_ids)
                    await self._put(name, pack_rows(kept, cut))
                await self.objects.delete([segment.name])

    async def each_run(self, project: str) -> AsyncIterator[RunId]:
        """Name every run of a project that is here."""
        folder = prefix_folder(project, "")
        async for name in self.objects.names(folder):
            yield from_bytes(bytes.fromhex(name.rpartition("/")[2]))

    async def project_of(self, folder: str) -> str | None:
        """Tell by a run in it which project a folder of runs is for; None where there is none."""
        async for name in self.objects.names(folder):
            body = await self.objects.get(name)
            if body is not None:
                return _sound(name, read_head, body).project_name
        return None

    def forget(self) -> None:
        """Forget every head that is kept: one of the runs may have been erased."""
        self._heads.clear()
        self._heads_bytes = 0
        self._generation += 1

    async def put(self, name: str, body: bytes) -> None:
        """Write an object of any kind, and read it back."""
        await self._put(name, body)

    async def _put(self, name: str, body: bytes) -> None:
        for _ in range(_TRIES):
            async with self._at_once:
                await self.objects.put(name, body)
                if await self.objects.get(name) == body:
                    return
        raise StoreUnavailable(f"the archive does not give back what was written as {name}: nothing was removed")

    def _keep(self, run_id: RunId, head: Head, size: int) -> None:
        self._heads[run_id] = head, size
        self._heads_bytes += size
        while self._heads_bytes > self.config.cache_bytes and self._heads:
            _, (_, gone) = self._heads.popitem(last=False)
            self._heads_bytes -= gone


def _sound(name: str, read: Callable[[bytes], T], body: bytes) -> T:
    try:
        return read(body)
    except (Damaged, msgspec.MsgspecError) as error:
        raise StoreUnavailable(f"{name} in the archive is damaged: {error}") from None
