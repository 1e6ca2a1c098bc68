"""What gateways read: Redis first, and what is not there out of the archive. The ports Runs, Outputs and RunLogs."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from runstore.adapters import tombstones
from runstore.adapters.leaving import part_name
from runstore.adapters.listing import matches
from runstore.adapters.outputs import CHUNK_BYTES, unpack
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.listing import list_archived, merge, order_of
from runstore.core.errors import OutputNotFound
from runstore.core.event import OutputRef
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.ports import ListPage, ListPosition, ListQuery, LogChunk
from runstore.wire.archive import Head
from runstore.wire.record import Record

if TYPE_CHECKING:
    from runstore.adapters.feed import RedisFeed
    from runstore.adapters.log import RedisLog
    from runstore.adapters.served import RedisServed
    from runstore.adapters.signing_keys import RedisSigningKeys
    from runstore.adapters.tokens import RedisTokens

_STREAMS = {b"o": "stdout", b"e": "stderr"}
_PIECES = 64


class ArchivedStore:
    """A store and its archive, as one: what a gateway is given in place of the store."""

    def __init__(self, store: RedisStore, archive: Archive) -> None:
        self._store = store
        self.archive = archive
        reader = _Reader(store, archive)
        self.runs = ArchivedRuns(store, archive, reader)
        self.outputs = ArchivedOutputs(store, archive, reader)
        self.logs = ArchivedLogs(store, archive, reader)

    @property
    def log(self) -> "RedisLog":
        """The event streams."""
        return self._store.log

    @property
    def feed(self) -> "RedisFeed":
        """The feeds."""
        return self._store.feed

    @property
    def tokens(self) -> "RedisTokens":
        """API tokens."""
        return self._store.tokens

    @property
    def signing_keys(self) -> "RedisSigningKeys":
        """The keys that run tokens are signed with."""
        return self._store.signing_keys

    @property
    def served(self) -> "RedisServed":
        """Projects that workers serve."""
        return self._store.served

    async def ping(self) -> None:
        """Ask whether the store answers. Raises: StoreUnavailable."""
        await self._store.ping()

    async def dead_letters(self) -> int:
        """Count the events that nobody could read, or that broke a rule. Raises: StoreUnavailable."""
        return await self._store.dead_letters()


class _Reader:
    """Finds a run in the archive, asking nobody about what never left."""

    def __init__(self, store: RedisStore, archive: Archive) -> None:
        self.store = store
        self._archive = archive

    async def head(self, run_id: RunId) -> Head | None:
        keys = self.store.meta.keys_of(run_id)
        if not await tombstones.perhaps(self.store.client, keys, [run_id]):
            return None
        [gone] = await tombstones.gone(self.store.client, [keys], None)
        return await self._archive.find(run_id, gone.newest_ms)

    async def head_among(self, run_id: RunId, projects: frozenset[str]) -> Head | None:
        """Find a run of some projects, without the filter: that knows of all, and its answer would show in the time."""
        keys = self.store.meta.keys_of(run_id)
        [gone] = await tombstones.gone(self.store.client, [keys], projects)
        return await self._archive.find(run_id, gone.newest_ms)

    async def newest(self, projects: frozenset[str] | None) -> tuple[dict[str, int], int]:
        """Return when the newest archived run of each project was created, and when the last of any of them ended."""
        newest: dict[str, int] = {}
        end_ms = 0
        for gone in await tombstones.gone(self.store.client, self.store.meta.keys, projects):
            end_ms = max(end_ms, gone.end_ms)
            for name, ms in gone.newest_ms.items():
                newest[name] = max(ms, newest.get(name, 0))
        return newest, end_ms


class ArchivedRuns:
    """Runs of the store and its archive."""

    def __init__(self, store: RedisStore, archive: Archive, reader: _Reader) -> None:
        self._runs = store.runs
        self._archive = archive
        self._reader = reader

    @property
    def has_archive(self) -> bool:
        """Whether runs may have left for an archive."""
        return True

    async def get_many(self, run_ids: Sequence[RunId]) -> list[Record | None]:
        """Get the records of runs that are in Redis, in order, without their histories."""
        return await self._runs.get_many(run_ids)

    async def get_archived(self, run_id: RunId, projects: frozenset[str] | None = None) -> Record | None:
        """Get the record of a run out of the archive of some projects (None: all)."""
        head = await (self._reader.head(run_id) if projects is None else self._reader.head_among(run_id, projects))
        return head.record if head is not None else None

    async def is_erased(self, run_id: RunId) -> bool:
        """Whether a run was erased for good."""
        keys = self._reader.store.meta.keys_of(run_id)
        known = await tombstones.perhaps(self._reader.store.client, keys, [run_id])
        return bool(known) and await self._archive.is_erased(run_id)

    def forget_archived(self) -> None:
        """Forget what is kept of archived runs: one may have been erased."""
        self._archive.forget()

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        """Get the kept events of a run, in stream order; empty for an unknown run."""
        found = await self._runs.history(run_id)
        if found:
            return found
        head = await self._reader.head(run_id)
        return head.history if head is not None else []

    async def find(self, digits: str, projects: frozenset[str] | None, limit: int) -> list[RunId]:
        """Find runs by 4 to 32 hex digits among the projects (None: all), at most `limit`, in order of id."""
        found = set(await self._runs.find(digits, projects, limit))
        newest, _ = await self._reader.newest(projects)
        for name in newest:
            found.update(await self._archive.ids(name, digits, limit))
        return sorted(found)[:limit]

    async def list_runs(self, query: ListQuery, position: ListPosition | None, limit: int) -> ListPage:
        """List runs, newest first, from a position on. A page may be short of `limit` where filters are narrow.

        Redis is read before the index: a run that moves meanwhile is in one of the two.
        """
        page = await self._runs.list_runs(query, position, limit)
        newest, end_ms = await self._reader.newest(query.projects)
        floor = page.next_position
        least_ms = floor.created_ms if floor is not None else 0
        newest = {name: ms for name, ms in newest.items() if ms >= least_ms}
        is_too_late = query.finished_after_us is not None and query.finished_after_us >= end_ms * 1000
        if not newest or is_too_late:
            return page
        stretch = await list_archived(self._archive, newest, query, below=position, floor=floor, limit=limit)
        archived = await self._as_they_are(stretch.runs, page.runs, query)
        runs, down_to = merge(page.runs, archived, (floor, stretch.down_to), limit)
        return ListPage(runs=tuple(runs), next_position=down_to)

    async def _as_they_are(self, archived: Sequence[Run], shown: Sequence[Run], query: ListQuery) -> list[Run]:
        """Take Redis's word for runs that are there (again): it may know more."""
        known = set(map(order_of, shown))
        asked = [run for run in archived if order_of(run) not in known]
        records = await self._runs.get_many([run.run_id for run in asked])
        found = [record.run if record is not None else run for run, record in zip(asked, records, strict=True)]
        return [run for run in found if matches(run, query)]


class ArchivedOutputs:
    """Outputs of the store and its archive."""

    def __init__(self, store: RedisStore, archive: Archive, reader: _Reader) -> None:
        self._outputs = store.outputs
        self._archive = archive
        self._reader = reader

    async def write(self, run_id: RunId, output: bytes, *, token: bytes | None = None) -> OutputRef:
        """Write a whole output and its capped view, to expire unless committed."""
        return await self._outputs.write(run_id, output, token=token)

    async def view(self, run_id: RunId, ref: OutputRef) -> bytes | None:
        """Get the capped view, at most 1 MiB; None where it has expired."""
        found = await self._outputs.view(run_id, ref)
        return found if found is not None else await self._part(run_id, ref, "v")

    async def read(self, run_id: RunId, ref: OutputRef, start: int, stop: int) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop` of the full payload, chunk by chunk; a run may leave meanwhile.

        Raises: OutputNotFound where a chunk has expired.
        """
        start, stop = max(start, 0), min(stop, ref.output_bytes)
        try:
            async for piece in self._outputs.read(run_id, ref, start, stop):
                yield piece
                start += len(piece)
        except OutputNotFound:
            while start < stop:
                chunk = start // CHUNK_BYTES if ref.chunks else 0
                piece = await self._part(run_id, ref, str(chunk) if ref.chunks else "v") or b""
                wanted = piece[start - chunk * CHUNK_BYTES : stop - chunk * CHUNK_BYTES]
                if not wanted:
                    raise
                yield wanted
                start += len(wanted)

    async def _part(self, run_id: RunId, ref: OutputRef, part: str) -> bytes | None:
        head = await self._reader.head(run_id)
        packed = await self._archive.part(head, part_name(ref.token, part)) if head is not None else None
        return unpack(packed) if packed is not None else None


class ArchivedLogs:
    """The output streams of runs of the store and its archive."""

    def __init__(self, store: RedisStore, archive: Archive, reader: _Reader) -> None:
        self._logs = store.logs
        self._archive = archive
        self._reader = reader

    async def append_logs(self, run_id: RunId, chunks: Sequence[tuple[str, bytes]]) -> None:
        """Append pieces, each of stream `stdout` or `stderr` and at most 16 KiB."""
        await self._logs.append_logs(run_id, chunks)

    async def read_logs(self, run_id: RunId, after: str, block_ms: int) -> list[LogChunk]:
        """Read pieces after a place (`0` is the beginning), waiting up to `block_ms` (0: not at all) for one."""
        found = await self._logs.read_logs(run_id, after, block_ms)
        if found:
            return found
        head = await self._reader.head(run_id)
        pieces = await self._archive.logs(head) if head is not None else []
        place = _numbers(after)
        return [
            LogChunk(after=told.decode(), stream=_STREAMS.get(code, "stdout"), data=data)
            for told, code, data in pieces
            if _numbers(told.decode()) > place
        ][:_PIECES]


def _numbers(place: str) -> tuple[int, int]:
    ms, _, seq = place.partition("-")
    return int(ms or 0), int(seq or 0)
