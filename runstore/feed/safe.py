"""Runs as they may be told: what is read of more than one run, or is absent, waits until all that it saw is safe.

One run is compared by its version, in `lookup`: that needs no question and waits for that run only.
"""

from collections.abc import Sequence

from runstore.core.ids import RunId
from runstore.core.run import HistoryItem
from runstore.feed.tail import FeedTail
from runstore.ports import ListPage, ListPosition, ListQuery, Runs
from runstore.wire.record import Record


class SafeRuns:
    """The port Runs, no further than the safe mark. Each method may raise StoreUnavailable, also for want of a mark."""

    def __init__(self, runs: Runs, tail: FeedTail) -> None:
        self._runs = runs
        self._tail = tail

    async def get_many(self, run_ids: Sequence[RunId]) -> list[Record | None]:
        """Get the records of runs, in order; how far they may be told, their versions say."""
        return await self._runs.get_many(run_ids)

    @property
    def has_archive(self) -> bool:
        """Whether runs may have left for an archive."""
        return self._runs.has_archive

    async def get_archived(self, run_id: RunId, projects: frozenset[str] | None = None) -> Record | None:
        """Get the record of a run out of the archive: it was safe before it left."""
        return await self._runs.get_archived(run_id, projects)

    def forget_archived(self) -> None:
        """Forget what is kept of archived runs."""
        self._runs.forget_archived()

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        """Get the kept events of a run, in stream order; empty for an unknown run."""
        found = await self._runs.history(run_id)
        await self._tail.settled((self._tail.partition_of(run_id),))
        return found

    async def find(self, digits: str, projects: frozenset[str] | None, limit: int) -> list[RunId]:
        """Find runs by 4 to 32 hex digits among the projects (None: all), at most `limit`, in order of id."""
        found = await self._runs.find(digits, projects, limit)
        if len(found) > 1:
            # one run is looked up, and waits by itself; several are told as they are
            await self._tail.settled()
        return found

    async def list_runs(self, query: ListQuery, position: ListPosition | None, limit: int) -> ListPage:
        """List runs, newest first, from a position on. A page may be short of `limit` where filters are narrow."""
        found = await self._runs.list_runs(query, position, limit)
        await self._tail.settled()
        return found
