"""Builders: events told to a store, runs with the ids one needs, the state that a store ends in."""

from typing import Any
from uuid import UUID

import msgspec

from runstore.adapters.store import RedisStore
from runstore.core.event import EntryId
from runstore.core.ids import RunId
from runstore.core.partition import partition_of


def run_id_of(number: int, *, partition: int | None = None, partitions: int = 16) -> RunId:
    """Make the id of a test's n-th run, in a partition where that matters."""
    salt = 0
    while True:
        run_id = RunId(str(UUID(int=((number * 0x9E3779B97F4A7C15) % 2**64 << 64) | salt)))
        if partition is None or partition_of(run_id, partitions) == partition:
            return run_id
        salt += 1


def event_of(run_id: RunId, status: str, **fields: Any) -> bytes:
    """Write an event as a publisher would."""
    return msgspec.json.encode({"run_id": run_id, "status": status, "project_name": "forecasts", **fields})


async def tell(store: RedisStore, run_id: RunId, status: str, **fields: Any) -> EntryId:
    """Append an event."""
    return await store.log.append(run_id, event_of(run_id, status, **fields))


async def tell_at(store: RedisStore, run_id: RunId, ms: int, seq: int, status: str, **fields: Any) -> None:
    """Put an event into the log as of a millisecond."""
    events = store.meta.keys_of(run_id).events
    await store.client.execute_command("XADD", events, f"{ms}-{seq}", "event", event_of(run_id, status, **fields))
