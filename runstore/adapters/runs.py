"""Runs as they were projected, over Redis."""

from collections.abc import Sequence

from runstore.adapters.connection import StoreClient
from runstore.adapters.listing import list_runs
from runstore.adapters.meta import Meta
from runstore.adapters.prefix import find
from runstore.adapters.records import get_records
from runstore.core.ids import RunId, to_bytes
from runstore.core.run import HistoryItem
from runstore.ports import ListPage, ListPosition, ListQuery
from runstore.wire.record import Record, decode_history


class RedisRuns:
    """Look-ups of runs, one at a time, by prefix and in lists."""

    def __init__(self, client: StoreClient, meta: Meta) -> None:
        self._client = client
        self._meta = meta

    async def get_many(self, run_ids: Sequence[RunId]) -> list[Record | None]:
        """Get the records of runs, in order, without their histories."""
        return await get_records(self._client, self._meta, run_ids)

    @property
    def has_archive(self) -> bool:
        """Whether runs may have left for an archive: this knows of none."""
        return False

    async def get_archived(self, run_id: RunId, projects: frozenset[str] | None = None) -> Record | None:
        """Get nothing: there is no archive."""
        return None

    def forget_archived(self) -> None:
        """Forget nothing: nothing is kept."""

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        """Get the kept events of a run, in stream order; empty for an unknown run."""
        return decode_history(
            await self._client.execute_command("HGETALL", self._meta.keys_of(run_id).run(to_bytes(run_id)))
        )

    async def find(self, digits: str, projects: frozenset[str] | None, limit: int) -> list[RunId]:
        """Find runs by 4 to 32 hex digits among the projects (None: all), at most `limit`, in order of id."""
        return await find(self._client, self._meta, digits, projects, limit)

    async def list_runs(self, query: ListQuery, position: ListPosition | None, limit: int) -> ListPage:
        """List runs, newest first, from a position on. A page may be short of `limit` where filters are narrow."""
        return await list_runs(self._client, self._meta, query, position, limit)
