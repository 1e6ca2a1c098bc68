"""What comes back from the archive: a run, put where it was before, by one commit against the cursor."""

from collections.abc import Mapping, Sequence

from runstore.adapters.leaving import ROUNDS, parts_of, read_cursor, try_commit
from runstore.adapters.outputs import ORPHAN_EXPIRY_S
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import to_bytes
from runstore.core.run import Run, end_ms
from runstore.core.status import Status
from runstore.wire.keys import PAGE_RUNS, PartitionKeys
from runstore.wire.record import Record


async def bring_back(
    store: RedisStore,
    head_fields: Mapping[bytes, bytes],
    record: Record,
    *,
    parts: Mapping[bytes, bytes],
    logs: Sequence[tuple[bytes, bytes, bytes]],
    hold_until_ms: int,
) -> bool:
    """Put a run back as it was; false where it is there already.

    Raises: StoreUnavailable; it may be there.
    """
    run = record.run
    keys, packed = store.meta.keys_of(run.run_id), to_bytes(run.run_id)
    await store.client.execute_command("ZADD", keys.restored, hold_until_ms, packed)
    for key, name in parts_of(keys, run):
        if name in parts:
            await store.client.execute_command("SET", key, parts[name], "NX", "EX", ORPHAN_EXPIRY_S)
    for _ in range(ROUNDS):
        cursor = await read_cursor(store, keys)
        if cursor is None:
            raise StoreUnavailable(f"partition {keys.partition} has no cursor yet: start a projector")
        if await store.client.execute_command("EXISTS", keys.run(packed)):
            return False
        page, commands = await _page_for(store, keys, run)
        fields = dict(head_fields) | {b"v": b"%d" % (cursor.n + 1), b"g": b"%d" % page}
        commands.append([b"HSET", keys.run(packed), *(part for item in fields.items() for part in item)])
        commands.append([b"ZADD", keys.ids(run.project_name, packed.hex()), b"0", packed])
        commands.append([b"ZADD", keys.page(run.project_name, page), b"%d" % run.created_ms, packed])
        commands.append([b"ZADD", keys.finished(run.project_name), b"GT", b"%d" % end_ms(run), b"%d" % page])
        if run.status is not Status.SUCCESS:
            commands.append([b"ZADD", keys.status(run.project_name, run.status), b"%d" % run.created_ms, packed])
        commands += [[b"PERSIST", key] for key, name in parts_of(keys, run) if name in parts]
        if await try_commit(store, keys, cursor, commands):
            await _put_logs(store, keys.logs(packed), logs)
            return True
    raise StoreUnavailable(f"partition {keys.partition} takes no commit of ours: try again")


async def _put_logs(store: RedisStore, key: bytes, logs: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    if not logs or await store.client.execute_command("EXISTS", key):
        return
    pipe = store.client.pipeline(transaction=True)
    for place, code, data in logs:
        pipe.execute_command("XADD", key, place, "s", code, "d", data)
    pipe.execute_command("EXPIRE", key, ORPHAN_EXPIRY_S)
    await pipe.execute()


async def _page_for(store: RedisStore, keys: PartitionKeys, run: Run) -> tuple[int, list[list[bytes]]]:
    """Find the page of the listing that a run of its time belongs on, so that every walk passes it in order."""
    name, commands = run.project_name, list[list[bytes]]()
    pages = keys.pages(name)
    found = await store.client.execute_command(
        "ZREVRANGEBYSCORE", pages, run.created_ms, "-inf", "LIMIT", 0, 1
    ) or await store.client.execute_command("ZRANGE", pages, 0, 0)
    if found:
        # one that is older than all pages makes the oldest of them begin with it
        commands.append([b"ZADD", pages, b"LT", b"%d" % run.created_ms, found[0]])
        return int(found[0]), commands
    count = int(await store.client.execute_command("HGET", keys.projects, name) or 0)
    if count % PAGE_RUNS == 0:
        # the next run would open this page, and move its beginning: take its first place
        count += 1
        commands.append([b"HSET", keys.projects, name.encode(), b"%d" % count])
    page = (count - 1) // PAGE_RUNS
    commands.append([b"ZADD", pages, b"%d" % run.created_ms, b"%d" % page])
    return page, commands
