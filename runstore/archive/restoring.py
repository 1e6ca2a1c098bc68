"""Bring a run back from the archive into Redis.

Its object and its row stay where they are: a walk through a listing that has passed Redis by then would miss it.
"""

from runstore.adapters import returning, tombstones
from runstore.adapters.keeping import now_ms
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.core.errors import RunNotFound
from runstore.core.ids import RunId
from runstore.wire.archive import LOGS, unpack_logs


async def archived_projects(store: RedisStore) -> list[str]:
    """Name the projects that runs have left of. Raises: StoreUnavailable."""
    found = await tombstones.gone(store.client, store.meta.keys, None)
    return sorted({name for gone in found for name in gone.newest_ms})


async def restore(store: RedisStore, archive: Archive, run_id: RunId) -> bool:
    """Bring a run back as it left; false where it is in Redis already.

    Raises: RunNotFound where the archive does not have it; StoreUnavailable.
    """
    head = await archive.find(run_id, await archived_projects(store))
    whole = await archive.whole(head.project_name, run_id) if head is not None else None
    if whole is None:
        raise RunNotFound(f"the archive has no run {run_id}")
    head, parts = whole
    logs = unpack_logs(parts[LOGS]) if LOGS in parts else []
    until_ms = await now_ms(store.client) + round(archive.config.restored_s * 1000)
    return await returning.bring_back(store, head.fields, head.record, parts=parts, logs=logs, hold_until_ms=until_ms)
