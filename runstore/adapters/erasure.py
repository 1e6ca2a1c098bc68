"""Runs erased from Redis: by commits that begin a new epoch, so that everybody looks again, and out of the streams."""

from collections.abc import Sequence
from secrets import token_bytes
from typing import Final

import msgspec

from runstore.adapters.connection import Script
from runstore.adapters.leaving import ROUNDS, RUNS_A_COMMIT, read_cursor, removal, runs_of_project, try_commit
from runstore.adapters.log import EPOCH_BYTES
from runstore.adapters.records import get_records
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.wire.keys import PartitionKeys
from runstore.wire.record import Record

_ENTRIES_A_READ: Final = 1_000
_BEGIN_FEED: Final = Script("""
local rows = redis.call('XRANGE', KEYS[1], ARGV[1], '+')
if #rows == 0 then return 0 end
-- a stream that is trimmed may keep the bytes of what went: it is written anew
redis.call('DEL', KEYS[1])
for _, row in ipairs(rows) do redis.call('XADD', KEYS[1], row[1], unpack(row[2])) end
return #rows
""")


async def erase(store: RedisStore, keys: PartitionKeys, records: Sequence[Record], *, project: str | None) -> int:
    """Remove runs of one partition, whatever happened to them since, and let everybody look again; return the commit.

    With `project` the project itself is forgotten as well, where no run of it is left.

    Raises: StoreUnavailable.
    """
    left = list(records)
    while True:
        part, is_last = left[:RUNS_A_COMMIT], len(left) <= RUNS_A_COMMIT
        for _ in range(ROUNDS):
            cursor = await read_cursor(store, keys)
            if cursor is None:
                return 0
            found = await get_records(store.client, store.meta, [record.run.run_id for record in part])
            commands = await removal(store, keys, [record for record in found if record is not None])
            commands += [[b"ZREM", keys.restored, to_bytes(record.run.run_id)] for record in part]
            if is_last and project is not None:
                rest = await runs_of_project(store, keys, project)
                if not {record.run.run_id for record in rest} - {record.run.run_id for record in part}:
                    commands.append([b"HDEL", keys.projects, project.encode()])
                    commands.append([b"HDEL", keys.archived, b"c:" + project.encode()])
                    commands.append([b"UNLINK", keys.pages(project), keys.finished(project)])
            commands.append([b"HSET", keys.cursor, b"epoch", token_bytes(EPOCH_BYTES)])
            if await try_commit(store, keys, cursor, commands, is_new_epoch=True):
                break
        else:
            raise StoreUnavailable(f"partition {keys.partition} takes no commit of ours: try again")
        left = left[RUNS_A_COMMIT:]
        if is_last:
            return cursor.n + 1


async def scrub(
    store: RedisStore, keys: PartitionKeys, run_ids: frozenset[RunId], *, project: str | None, upto: int
) -> int:
    """Take what tells of erased runs, or of a project, out of the log, the dead letters and the feed.

    Returns how many entries of the first two went.

    The feed goes up to the commit `upto`: who stands before it is told to look again.

    Raises: StoreUnavailable.
    """
    gone = 0
    needles = [run_id.encode() for run_id in run_ids]
    for stream in (keys.events, keys.dead):
        after = b"-"
        while rows := await store.client.execute_command("XRANGE", stream, after, "+", "COUNT", _ENTRIES_A_READ):
            doomed = [place for place, told in rows if _tells(told.get(b"event", b""), run_ids, needles, project)]
            if doomed:
                gone += await store.client.execute_command("XDEL", stream, *doomed)
            after = b"(" + rows[-1][0]
    packed = {to_bytes(run_id) for run_id in run_ids}
    for stream in (keys.offers, keys.controls):
        rows = await store.client.execute_command("XRANGE", stream, "-", "+")
        doomed = [place for place, told in rows if told.get(b"id") in packed]
        if doomed:
            await store.client.execute_command("XDEL", stream, *doomed)
    if upto:
        await _BEGIN_FEED.run(store.client, [keys.feed], [f"{upto}-0"])
    return gone


class _Told(msgspec.Struct):
    run_id: str = ""
    project_name: str | None = None


_TOLD: Final = msgspec.json.Decoder(_Told)


def _tells(event: bytes, run_ids: frozenset[RunId], needles: Sequence[bytes], project: str | None) -> bool:
    try:
        found = _TOLD.decode(event)
        if project is not None and found.project_name == project:
            return True
        told = found.run_id.strip().lower().replace("-", "")
        if len(told) == 32:
            return from_bytes(bytes.fromhex(told)) in run_ids
    except (msgspec.MsgspecError, ValueError):
        pass
    return any(needle in event for needle in needles)
