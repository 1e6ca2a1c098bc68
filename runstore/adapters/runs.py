"""Runs as they were projected, over Redis."""

from collections.abc import Sequence
from logging import getLogger
from typing import Any

import msgspec

from runstore.adapters.connection import StoreClient
from runstore.adapters.listing import list_runs
from runstore.adapters.meta import Meta
from runstore.adapters.prefix import find
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, to_bytes
from runstore.core.run import HistoryItem
from runstore.ports import ListPage, ListPosition, ListQuery
from runstore.wire.record import PROJECTED, Record, decode_history, decode_record

_log = getLogger("runstore.adapters.runs")


class RedisRuns:
    """Look-ups of runs, one at a time, by prefix and in lists."""

    def __init__(self, client: StoreClient, meta: Meta) -> None:
        self._client = client
        self._meta = meta

    async def get_many(self, run_ids: Sequence[RunId]) -> list[Record | None]:
        """Get the records of runs, in order, without their histories."""
        return await get_records(self._client, self._meta, run_ids)

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


async def get_records(client: StoreClient, meta: Meta, run_ids: Sequence[RunId]) -> list[Record | None]:
    """Get records in one round trip; a key that holds no record counts as no run, and is logged."""
    if not run_ids:
        return []
    pipe = client.pipeline(transaction=False)
    for run_id in run_ids:
        pipe.execute_command("HMGET", meta.keys_of(run_id).run(to_bytes(run_id)), *PROJECTED)
    replies = await pipe.execute(raise_on_error=False)
    records: list[Record | None] = []
    for run_id, reply in zip(run_ids, replies, strict=True):
        try:
            records.append(read_record(run_id, reply))
        except CorruptRecord as error:
            _log.error("record_unreadable", extra={"run_id": run_id, "reason": str(error)})
            records.append(None)
    return records


class CorruptRecord(StoreUnavailable):
    """A run's key holds something that is no record."""


def read_record(run_id: RunId, reply: Any) -> Record | None:
    """Read the reply to an HMGET of the record's fields.

    Raises: CorruptRecord; StoreUnavailable where the reply is another error.
    """
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            raise CorruptRecord("the run's key has the wrong type") from reply
        raise StoreUnavailable(f"a run could not be read: {str(reply)[:200]}") from reply
    try:
        return decode_record(
            run_id, {name: value for name, value in zip(PROJECTED, reply, strict=True) if value is not None}
        )
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise CorruptRecord("the run's record cannot be read") from error
