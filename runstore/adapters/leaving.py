"""What leaves Redis for the archive: the runs that may, all of one, and the commit that removes.

Each commit compares the cursor's nonce, like a projector's. It is read right before, together with the version of each
run: whatever took its time (the archive) was done by then, so a busy partition makes nobody wait for his turn for ever.
"""

from collections.abc import AsyncIterator, Sequence
from logging import getLogger
from secrets import token_bytes
from typing import Final, NamedTuple

from runstore.adapters.commit import Verdict, commit
from runstore.adapters.keeping import now_ms
from runstore.adapters.log import parse_entry_id
from runstore.adapters.mark import get_marks, put_mark
from runstore.adapters.outputs import part_keys
from runstore.adapters.records import CorruptRecord, get_records, read_record
from runstore.adapters.store import RedisStore
from runstore.core.cursor import NONCE_BYTES
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.run import Run, end_ms
from runstore.core.status import Status
from runstore.wire.feed import FeedEntry, Mark, encode_feed
from runstore.wire.keys import PAGE_RUNS, PartitionKeys
from runstore.wire.record import PROJECTED, Record

_log = getLogger("runstore.archive")
_PAGES_A_READ: Final = 20
RUNS_A_COMMIT: Final = 250
ROUNDS: Final = 50
_LOG_PIECES: Final = 1_000


class Unwritable(StoreUnavailable):
    """Keys that a commit is to write have the wrong type."""


class Whole(NamedTuple):
    """All of a run as it lies in Redis: the fields of its hash, the parts of its outputs, its log stream."""

    record: Record
    fields: dict[bytes, bytes]
    parts: dict[bytes, bytes]
    logs: list[tuple[bytes, bytes, bytes]]


class Cursor(NamedTuple):
    """Where a partition stands."""

    nonce: bytes
    n: int
    entry: EntryId


async def ended_runs(store: RedisStore, keys: PartitionKeys, *, upto_ms: int, most: int) -> AsyncIterator[Record]:
    """Find runs of a partition that ended up to a time and may leave, of each project the oldest `most` or more.

    Raises: StoreUnavailable.
    """
    safe_n = await _safe_n(store, keys)
    await store.client.execute_command("ZREMRANGEBYSCORE", keys.restored, "-inf", await now_ms(store.client))
    held = frozenset(await store.client.execute_command("ZRANGE", keys.restored, 0, -1))
    for name in await store.client.execute_command("HKEYS", keys.projects):
        project, skipped, found = name.decode(), 0, 0
        while found < most:
            pages = await store.client.execute_command(
                "ZRANGEBYSCORE", keys.pages(project), "-inf", upto_ms, "LIMIT", skipped, _PAGES_A_READ
            )
            for run_ids in await _members(store, [keys.page(project, int(page)) for page in pages]):
                for record in await get_records(store.client, store.meta, run_ids):
                    if record is None or to_bytes(record.run.run_id) in held:
                        continue
                    is_safe = safe_n is None or record.version <= safe_n
                    if record.run.is_terminal and end_ms(record.run) <= upto_ms and is_safe:
                        found += 1
                        yield record
            skipped += len(pages)
            if len(pages) < _PAGES_A_READ:
                break


async def _safe_n(store: RedisStore, keys: PartitionKeys) -> int | None:
    """Return the number of the newest commit that is as safe as it is to be; None where that is all of them."""
    if not store.safety.has_mark:
        return None
    [mark] = await get_marks(store.client, [keys])
    return mark.n if mark is not None else 0


async def runs_of_project(store: RedisStore, keys: PartitionKeys, project: str) -> list[Record]:
    """Read every run of a project in one partition. Raises: StoreUnavailable."""
    pages = await store.client.execute_command("ZRANGE", keys.pages(project), 0, -1)
    found: list[Record] = []
    for run_ids in await _members(store, [keys.page(project, int(page)) for page in pages]):
        found += [record for record in await get_records(store.client, store.meta, run_ids) if record is not None]
    return found


async def _members(store: RedisStore, pages: Sequence[bytes]) -> list[list[RunId]]:
    pipe = store.client.pipeline(transaction=False)
    for page in pages:
        pipe.execute_command("ZRANGE", page, 0, -1)
    replies = await pipe.execute() if pages else []
    return [[from_bytes(packed) for packed in reply] for reply in replies]


async def read_whole(store: RedisStore, run_id: RunId) -> Whole | None:
    """Read all of a run; None where there is none, or its key holds none. Raises: StoreUnavailable."""
    keys, packed = store.meta.keys_of(run_id), to_bytes(run_id)
    fields = await store.client.execute_command("HGETALL", keys.run(packed))
    try:
        record = read_record(run_id, [fields.get(name) for name in PROJECTED])
    except CorruptRecord:
        return None
    if record is None:
        return None
    parts = {}
    for key, name in parts_of(keys, record.run):
        piece = await store.client.execute_command("GET", key)
        if piece is not None:
            parts[name] = piece
    rows = await store.client.execute_command("XRANGE", keys.logs(packed), "-", "+", "COUNT", _LOG_PIECES)
    logs = [(place, told.get(b"s", b"o"), told.get(b"d", b"")) for place, told in rows]
    return Whole(record, fields, parts, logs)


def part_name(token: bytes, part: str) -> bytes:
    """Name a part of an output as the archive does."""
    return token.hex().encode() + b":" + part.encode()


def parts_of(keys: PartitionKeys, run: Run) -> list[tuple[bytes, bytes]]:
    """Name the keys of a run's outputs, and their parts in the archive."""
    found = []
    for ref in (run.output, run.late_output):
        if ref is not None:
            names = ["v", *(str(chunk) for chunk in range(ref.chunks))]
            names_there = [part_name(ref.token, name) for name in names]
            found += list(zip(part_keys(keys, to_bytes(run.run_id), ref), names_there, strict=True))
    return found


async def remove(store: RedisStore, keys: PartitionKeys, records: Sequence[Record]) -> list[RunId]:
    """Remove runs of one partition that are still what was read, and return those that are gone by it.

    A run that cannot be removed, for a key of it has the wrong type, stays alone.

    Raises: StoreUnavailable; some may be gone.
    """
    done: list[RunId] = []
    parts = [records[begin : begin + RUNS_A_COMMIT] for begin in range(0, len(records), RUNS_A_COMMIT)]
    while parts:
        part = parts.pop()
        try:
            done += await _remove(store, keys, part)
        except Unwritable as error:
            if len(part) > 1:
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
            else:
                _log.error("run_not_removed", extra={"run_id": part[0].run.run_id, "reason": error.detail})
    return done


async def _remove(store: RedisStore, keys: PartitionKeys, records: Sequence[Record]) -> list[RunId]:
    for _ in range(ROUNDS):
        cursor = await read_cursor(store, keys)
        unchanged = await _unchanged(store, keys, records)
        if cursor is None or not unchanged:
            break
        if await try_commit(store, keys, cursor, await removal(store, keys, unchanged)):
            return [record.run.run_id for record in unchanged]
    return []


async def read_cursor(store: RedisStore, keys: PartitionKeys) -> Cursor | None:
    nonce, n, entry = await store.client.execute_command("HMGET", keys.cursor, "nonce", "n", "entry")
    return None if None in (nonce, n, entry) else Cursor(nonce, int(n), parse_entry_id(entry))


async def _unchanged(store: RedisStore, keys: PartitionKeys, records: Sequence[Record]) -> list[Record]:
    pipe = store.client.pipeline(transaction=False)
    for record in records:
        pipe.execute_command("HGET", keys.run(to_bytes(record.run.run_id)), "v")
    versions = await pipe.execute(raise_on_error=False)
    return [record for record, v in zip(records, versions, strict=True) if v == b"%d" % record.version]


async def removal(store: RedisStore, keys: PartitionKeys, records: Sequence[Record]) -> list[list[bytes]]:
    """Say what removes runs: their keys, their places in indexes, and pages that nothing is on any more.

    A page that is not full yet stays, for the runs that will come onto it.
    """
    commands: list[list[bytes]] = []
    pages: dict[tuple[str, int], set[bytes]] = {}
    for record in records:
        run, packed = record.run, to_bytes(record.run.run_id)
        name = run.project_name
        pages.setdefault((name, record.page), set()).add(packed)
        commands.append([b"ZREM", keys.ids(name, packed.hex()), packed])
        if run.status is not Status.SUCCESS:
            commands.append([b"ZREM", keys.status(name, run.status), packed])
        doomed = [keys.run(packed), keys.logs(packed), keys.request(packed), keys.lease(packed)]
        commands.append([b"UNLINK", *doomed, *(key for key, _ in parts_of(keys, run))])
    counts = await store.client.execute_command("HGETALL", keys.projects)
    places = list(pages)
    members = await _members(store, [keys.page(*place) for place in places])
    for (name, page), there in zip(places, members, strict=True):
        leaving = pages[name, page]
        commands.append([b"ZREM", keys.page(name, page), *leaving])
        is_full = int(counts.get(name.encode(), 0)) >= (page + 1) * PAGE_RUNS
        if is_full and {to_bytes(run_id) for run_id in there} <= leaving:
            commands.append([b"ZREM", keys.pages(name), b"%d" % page])
            commands.append([b"ZREM", keys.finished(name), b"%d" % page])
    return commands


async def try_commit(
    store: RedisStore, keys: PartitionKeys, cursor: Cursor, commands: list[list[bytes]], *, is_new_epoch: bool = False
) -> bool:
    """Commit against the cursor; false where another commit came first. Raises: Unwritable; StoreUnavailable."""
    nonce, n, is_marked = token_bytes(NONCE_BYTES), cursor.n + 1, store.safety.has_mark
    before = None if is_new_epoch else cursor.nonce
    told = FeedEntry(n=n, nonce=nonce, entry=cursor.entry, changes=(), before=before, is_marked=is_marked)
    outcome = await commit(
        store.client,
        keys,
        expected=cursor.nonce,
        nonce=nonce,
        n=n,
        entry=cursor.entry,
        feed=encode_feed(told),
        commands=commands,
        safety=store.safety,
    )
    if outcome.verdict is Verdict.WRONG:
        raise Unwritable(f"keys of the wrong type: {outcome.about!r}")
    if outcome.verdict is Verdict.FEED:
        raise StoreUnavailable(f"partition {keys.partition} takes no commit: {outcome.about!r}")
    if outcome.verdict is Verdict.DONE and is_marked and outcome.is_safe:
        await put_mark(store.client, keys, Mark(n, nonce))
    return outcome.verdict is Verdict.DONE
