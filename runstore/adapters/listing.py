"""Listings, newest first: the runs of every partition and project merged by when they were created.

Each partition and project is a *source* that gives candidates from a position down, a chunk at a time; a heap merges
them, and only candidates that come up are looked up. So a page costs what it shows, however large the store is. One
request looks at a bounded number of candidates: where filters are narrow a page is short, and its position goes on.
"""

from heapq import heappop, heappush
from typing import Final

from runstore.adapters.connection import StoreClient
from runstore.adapters.meta import Meta
from runstore.adapters.prefix import projects_of
from runstore.adapters.records import get_records
from runstore.adapters.sources import NEWEST, Candidate, PageSource, Source, StatusSource
from runstore.core.ids import from_bytes
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.ports import ListPage, ListPosition, ListQuery
from runstore.wire.keys import PartitionKeys

MOST_CANDIDATES: Final = 2_000
_SOURCES_AT_ONCE: Final = 500
_INVERSE: Final = bytes(range(255, -1, -1))


async def list_runs(
    client: StoreClient, meta: Meta, query: ListQuery, position: ListPosition | None, limit: int
) -> ListPage:
    """List runs, newest first, from a position on, looking at a bounded number of candidates."""
    named = await projects_of(client, meta, query.projects)
    merge = _Merge(
        client,
        [_source(keys, name, query, position) for keys, names in zip(meta.keys, named, strict=True) for name in names],
    )
    shown: list[Run] = []
    looked_at = 0
    last: Candidate | None = None
    while len(shown) < limit and looked_at < MOST_CANDIDATES:
        candidates = await merge.take(min(max(limit - len(shown), 16), MOST_CANDIDATES - looked_at))
        if not candidates:
            return ListPage(runs=tuple(shown), next_position=None)
        records = await get_records(client, meta, [from_bytes(candidate.packed_id) for candidate in candidates])
        for candidate, record in zip(candidates, records, strict=True):
            looked_at += 1
            last = candidate
            if record is not None and matches(record.run, query):
                shown.append(record.run)
                if len(shown) == limit:
                    break
    assert last is not None
    return ListPage(runs=tuple(shown), next_position=ListPosition(created_ms=last.ms, packed_id=last.packed_id))


def matches(run: Run, query: ListQuery) -> bool:
    """Whether a run is one that a listing asks for."""
    created_us = run.created_ms * 1000
    return (
        (query.projects is None or run.project_name in query.projects)
        and (not query.statuses or run.status in query.statuses)
        and (query.commit_sha is None or (run.commit_sha or "").lower().startswith(query.commit_sha.lower()))
        and query.tags <= set(run.tags)
        and (query.created_after_us is None or created_us > query.created_after_us)
        and (query.created_before_us is None or created_us < query.created_before_us)
        and (query.finished_after_us is None or _finished_us(run) > query.finished_after_us)
    )


def _finished_us(run: Run) -> int:
    return max(run.finished_us or 0, run.recorded_ms * 1000) if run.is_terminal else -1


def _source(keys: PartitionKeys, name: str, query: ListQuery, position: ListPosition | None) -> Source:
    below = Candidate(position.created_ms, position.packed_id) if position is not None else NEWEST
    if query.created_before_us is not None:
        below = min(below, Candidate(-(-query.created_before_us // 1000), b""))
    least_ms = query.created_after_us // 1000 + 1 if query.created_after_us is not None else 0
    if query.statuses and Status.SUCCESS not in query.statuses and query.finished_after_us is None:
        # a run moves forward only: read in this order, one that moves meanwhile is met at its old or its new status
        statuses = [status for status in Status if status in query.statuses]
        return StatusSource([keys.status(name, status) for status in statuses], below, least_ms)
    finished_ms = query.finished_after_us // 1000 if query.finished_after_us is not None else None
    return PageSource(keys, name, below, least_ms=least_ms, finished_ms=finished_ms)


class _Merge:
    """Merge sources, newest first, reading only from those that may hold the next candidate."""

    def __init__(self, client: StoreClient, sources: list[Source]) -> None:
        self._client = client
        self._heap: list[tuple[tuple[int, bytes], int, Source]] = []
        for place, source in enumerate(sources):
            self._push(place, source)

    async def take(self, count: int) -> list[Candidate]:
        """Take the next candidates; fewer only where there are no more."""
        taken: list[Candidate] = []
        while self._heap and len(taken) < count:
            hungry: list[tuple[int, Source]] = []
            while self._heap and self._heap[0][2].is_hungry:
                _, place, source = heappop(self._heap)
                hungry.append((place, source))
            if hungry:
                await self._feed([source for _, source in hungry])
                for place, source in hungry:
                    self._push(place, source)
                continue
            _, place, source = heappop(self._heap)
            taken.append(source.pop())
            self._push(place, source)
        return taken

    def _push(self, place: int, source: Source) -> None:
        if not source.is_exhausted:
            heappush(self._heap, (_order(source.next), place, source))

    async def _feed(self, sources: list[Source]) -> None:
        for begin in range(0, len(sources), _SOURCES_AT_ONCE):
            pipe = self._client.pipeline(transaction=False)
            asked = [(source, source.commands()) for source in sources[begin : begin + _SOURCES_AT_ONCE]]
            for _, commands in asked:
                for command in commands:
                    pipe.execute_command(*command)
            replies = iter(await pipe.execute())
            for source, commands in asked:
                source.accept([next(replies) for _ in commands])


def _order(candidate: Candidate) -> tuple[int, bytes]:
    return -candidate.ms, candidate.packed_id.translate(_INVERSE)
