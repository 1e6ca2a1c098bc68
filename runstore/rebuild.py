"""Rebuild: fold the kept log beside the live runs, report every difference, and put the fold in their place on demand.

Nothing is written but by `swap`, and that is one commit a partition against its cursor, like a projector's: either the
partition is as it was read, or it is read again. The commit begins a new epoch, so that gateways forget what they kept
of the runs and everybody who resumes is told to look again.
"""

import re
from collections.abc import AsyncIterator, Sequence
from secrets import token_bytes
from typing import Any, Final, Protocol

import msgspec

from runstore.adapters.commit import Verdict, commit
from runstore.adapters.log import EPOCH_BYTES, parse_entry_id
from runstore.adapters.outputs import Parts, part_keys
from runstore.adapters.partition import see
from runstore.adapters.records import CorruptRecord, read_record
from runstore.adapters.store import RedisStore
from runstore.core.cursor import NONCE_BYTES
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.run import HistoryItem, Run, end_ms
from runstore.core.status import Status
from runstore.projection.partition import bring_outputs
from runstore.projection.reading import DeadLetter, Heard, read_entry
from runstore.projection.refold import Difference, Fresh, Refold, as_it_left, differences_of, is_whole, renumbered
from runstore.wire.feed import FeedEntry, decode_feed, encode_feed
from runstore.wire.keys import PAGE_RUNS, PartitionKeys
from runstore.wire.record import PROJECTED, Record, decode_history, encode_item, encode_record

ENTRIES_A_READ: Final = 64
_PLACE: Final = re.compile(rb"\d+-\d+")
RUNS_A_READ: Final = 200
ROUNDS: Final = 5
"""How often runs are looked at again that moved on meanwhile, or a swap is tried that another commit came before."""


class Archived(Protocol):
    """The runs that left the store."""

    async def get_archived(self, run_id: RunId) -> Record | None:
        """Get the record of a run that left."""
        ...

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        """Get the kept events of a run, in stream order."""
        ...

    async def is_erased(self, run_id: RunId) -> bool:
        """Whether a run was erased for good."""
        ...


class Report(msgspec.Struct, kw_only=True):
    """What was compared. `older` runs have events that are no longer kept, `moving` ones never stood still.

    `archived` runs were compared with what the archive has of them.

    `swapped` runs were put right, by which `put_right` of the differences are gone.
    """

    entries: int = 0
    compared: int = 0
    archived: int = 0
    older: int = 0
    moving: int = 0
    swapped: int = 0
    put_right: int = 0
    differences: list[Difference] = msgspec.field(default_factory=list)


class _Live(msgspec.Struct):
    record: Record | None
    items: list[HistoryItem]
    is_corrupt: bool = False


class _Cursor(msgspec.Struct):
    epoch: bytes
    nonce: bytes
    n: int
    entry: EntryId


class Rebuild:
    """Compare a store, and its archive where there is one, with its log, partition by partition."""

    def __init__(self, store: RedisStore, archived: Archived | None = None) -> None:
        self._store = store
        self._archived = archived
        self._left: dict[RunId, list[Difference]] = {}
        self._client = store.client

    async def run(self, *, swap: bool = False) -> Report:
        """Compare every partition; with `swap` put right what differs.

        Raises: StoreUnavailable.
        """
        report = Report()
        for keys in self._store.meta.keys:
            await self._partition(keys, report, swap=swap)
        return report

    async def _partition(self, keys: PartitionKeys, report: Report, *, swap: bool) -> None:
        refold = Refold()
        cursor = await self._fold(keys, refold, EntryId(0, 0))
        if cursor is None:
            return
        bad: dict[RunId, list[Difference]] = {}
        older: set[RunId] = set()
        is_swapped = False
        suspects, moving = list(refold.fresh), list[RunId]()
        for _ in range(ROUNDS):
            bad, moving = await self._compare(keys, refold, suspects, cursor, older)
            is_swapped = swap and bool(bad) and not moving and await self._swap(keys, refold, cursor, list(bad))
            if is_swapped:
                report.swapped += len(bad)
                report.put_right += sum(map(len, bad.values()))
            if is_swapped or not (moving or (swap and bad)):
                break
            suspects = [*moving, *bad]
            cursor = await self._fold(keys, refold, cursor.entry) or cursor
        if bad and not is_swapped:
            await self._check_not_set_back(keys, cursor)
        report.older += len(older)
        report.moving += len(moving)
        report.entries += refold.entries
        report.compared += len(refold.fresh)
        report.archived += len(self._left)
        report.differences += [each for found in (*bad.values(), *self._left.values()) for each in found]
        self._left.clear()
        report.differences += [each async for each in self._extra(keys, refold)]

    async def _fold(self, keys: PartitionKeys, refold: Refold, after: EntryId) -> _Cursor | None:
        epoch, nonce, n, entry = await self._client.execute_command(
            "HMGET", keys.cursor, "epoch", "nonce", "n", "entry"
        )
        if None in (epoch, nonce, n, entry):
            return None
        upto = parse_entry_id(entry)
        while after < upto:
            rows = await self._client.execute_command(
                "XRANGE", keys.events, f"({after}", str(upto), "COUNT", ENTRIES_A_READ
            )
            if not rows:
                break
            after = parse_entry_id(rows[-1][0])
            readings = [self._reading(keys, row) for row in rows]
            await self._place_outputs(keys, readings)
            refold.take(readings)
        return _Cursor(epoch, nonce, int(n), upto)

    async def _check_not_set_back(self, keys: PartitionKeys, cursor: _Cursor) -> None:
        """Runs of a store that was rolled back since its log was read are older than that log, and nothing is wrong.

        Raises: StoreUnavailable.
        """
        epoch, n = await self._client.execute_command("HMGET", keys.cursor, "epoch", "n")
        if epoch != cursor.epoch or n is None or int(n) < cursor.n:
            raise StoreUnavailable(f"partition {keys.partition} was set back while it was compared: try again")

    def _reading(self, keys: PartitionKeys, row: Any) -> Heard | DeadLetter:
        partitions = self._store.meta.partitions
        return read_entry(parse_entry_id(row[0]), row[1], partition=keys.partition, partitions=partitions)

    async def _place_outputs(
        self, keys: PartitionKeys, readings: Sequence[Heard | DeadLetter]
    ) -> dict[tuple[RunId, bytes], Parts]:
        events = [reading.entry.event for reading in readings if isinstance(reading, Heard)]
        refs = {(event.run_id, event.output_ref) for event in events if event.output_ref is not None}
        return await bring_outputs(readings, await see(self._client, keys, [], sorted(refs, key=repr)))

    async def _compare(
        self, keys: PartitionKeys, refold: Refold, run_ids: Sequence[RunId], cursor: _Cursor, older: set[RunId]
    ) -> tuple[dict[RunId, list[Difference]], list[RunId]]:
        bad: dict[RunId, list[Difference]] = {}
        moving: list[RunId] = []
        for begin in range(0, len(run_ids), RUNS_A_READ):
            some = run_ids[begin : begin + RUNS_A_READ]
            for run_id, live in zip(some, await self._read(keys, some), strict=True):
                fresh, record = refold.fresh[run_id], live.record
                if record is None and not live.is_corrupt and await self._has_left(fresh, keys.partition, older):
                    continue
                if record is not None and record.version > cursor.n:
                    moving.append(run_id)
                elif not is_whole(fresh, live.items):
                    older.add(run_id)
                elif found := differences_of(fresh, record.run if record else None, live.items, keys.partition):
                    bad[run_id] = found
        return bad, moving

    async def _has_left(self, fresh: Fresh, partition: int, older: set[RunId]) -> bool:
        """Whether a run is in the archive, or was erased; what is there is compared with the log, and never swapped."""
        run_id = fresh.run.run_id
        record = await self._archived.get_archived(run_id) if self._archived is not None else None
        if record is None or self._archived is None:
            return self._archived is not None and await self._archived.is_erased(run_id)
        items = await self._archived.history(run_id)
        if not is_whole(fresh, items):
            older.add(run_id)
        else:
            self._left[run_id] = differences_of(as_it_left(fresh, record.run, items), record.run, items, partition)
        return True

    async def _read(self, keys: PartitionKeys, run_ids: Sequence[RunId]) -> list[_Live]:
        pipe = self._client.pipeline(transaction=False)
        for run_id in run_ids:
            pipe.execute_command("HGETALL", keys.run(to_bytes(run_id)))
        found = []
        for run_id, reply in zip(run_ids, await pipe.execute(raise_on_error=False), strict=True):
            try:
                fields = reply if isinstance(reply, dict) else {}
                values = [fields.get(name) for name in PROJECTED] if isinstance(reply, dict) else reply
                found.append(_Live(read_record(run_id, values), decode_history(fields)))
            except (CorruptRecord, ValueError, msgspec.MsgspecError):
                found.append(_Live(None, [], is_corrupt=True))
        return found

    async def _extra(self, keys: PartitionKeys, refold: Refold) -> AsyncIterator[Difference]:
        """Find runs that the log should tell of and does not."""
        first = refold.first
        place: Any = 0
        pattern = keys.run(b"").replace(b"{", b"\\{") + b"?" * 16
        client = await self._client.of_server(keys.cursor)
        while first is not None:
            place, names = await client.execute_command("SCAN", place, "MATCH", pattern, "COUNT", 1000)
            run_ids = [from_bytes(name[-16:]) for name in names if from_bytes(name[-16:]) not in refold.fresh]
            for run_id, live in zip(run_ids, await self._read(keys, run_ids) if run_ids else [], strict=True):
                if live.items and first <= live.items[0].entry_id <= (refold.last or first):
                    yield Difference(run_id=run_id, partition=keys.partition, what="the run is in no event")
            if int(place) == 0:
                return

    async def _swap(
        self,
        keys: PartitionKeys,
        refold: Refold,
        cursor: _Cursor,
        run_ids: list[RunId],
    ) -> bool:
        numbers = await self._numbers_told(keys)
        commands: list[list[bytes]] = []
        counts = {
            name.decode(): int(count)
            for name, count in (await self._client.execute_command("HGETALL", keys.projects)).items()
        }
        for run_id, live in zip(run_ids, await self._read(keys, run_ids), strict=True):
            fresh, packed = refold.fresh[run_id], to_bytes(run_id)
            number = live.record.run.run_number if live.record is not None else None
            run = renumbered(fresh.run, number if number is not None else numbers.get(run_id))
            page = live.record.page if live.record is not None else await self._page(keys, run, counts, commands)
            if live.is_corrupt:
                await self._client.execute_command("UNLINK", keys.run(packed))
            await self._write_outputs(keys, run)
            commands += _commands(keys, Record(run, cursor.n + 1, page), fresh.items)
        nonce, epoch = token_bytes(NONCE_BYTES), token_bytes(EPOCH_BYTES)
        commands.append([b"HSET", keys.cursor, b"epoch", epoch])
        is_marked = self._store.safety.has_mark
        told = FeedEntry(n=cursor.n + 1, nonce=nonce, entry=cursor.entry, changes=(), is_marked=is_marked)
        outcome = await commit(
            self._client,
            keys,
            expected=cursor.nonce,
            nonce=nonce,
            n=cursor.n + 1,
            entry=cursor.entry,
            feed=encode_feed(told),
            commands=commands,
            safety=self._store.safety,
        )
        if outcome.verdict in {Verdict.WRONG, Verdict.FEED}:
            raise StoreUnavailable(f"partition {keys.partition} takes no commit: {outcome.about!r}")
        return outcome.verdict is Verdict.DONE

    async def _write_outputs(self, keys: PartitionKeys, run: Run) -> None:
        """Write again what came in the log itself, and is named by its place there; what is there stays."""
        for ref in _refs(run):
            rows = []
            if _PLACE.fullmatch(ref.token):
                rows = await self._client.execute_command("XRANGE", keys.events, ref.token, ref.token)
            parts = await self._place_outputs(keys, [self._reading(keys, row) for row in rows]) if rows else {}
            if (run.run_id, ref.token) in parts:
                await self._store.outputs.write_many([(run.run_id, parts[run.run_id, ref.token])])

    async def _numbers_told(self, keys: PartitionKeys) -> dict[RunId, int]:
        """Read the run numbers that the kept feed tells: no event has them."""
        found: dict[RunId, int] = {}
        after = b"-"
        while rows := await self._client.execute_command("XRANGE", keys.feed, after, "+", "COUNT", ENTRIES_A_READ):
            for _, fields in rows:
                for change in decode_feed(fields[b"c"]).changes:
                    if change.run.run_number is not None:
                        found[change.run.run_id] = change.run.run_number
            after = b"(" + rows[-1][0]
        return found

    async def _page(self, keys: PartitionKeys, run: Run, counts: dict[str, int], commands: list[list[bytes]]) -> int:
        """Find the page of a listing that a run is on, or give it the next place."""
        name, packed = run.project_name, to_bytes(run.run_id)
        pages = await self._client.execute_command("ZRANGE", keys.pages(name), 0, -1)
        for page in map(int, pages):
            if await self._client.execute_command("ZSCORE", keys.page(name, page), packed) is not None:
                return page
        count = counts.get(name, 0)
        counts[name] = count + 1
        commands.append([b"HSET", keys.projects, name.encode(), b"%d" % counts[name]])
        if count % PAGE_RUNS == 0:
            commands.append([b"ZADD", keys.pages(name), b"%d" % run.created_ms, b"%d" % (count // PAGE_RUNS)])
        return count // PAGE_RUNS


def _refs(run: Run) -> list[Any]:
    return [ref for ref in (run.output, run.late_output) if ref is not None]


def _commands(keys: PartitionKeys, record: Record, items: Sequence[HistoryItem]) -> list[list[bytes]]:
    run, packed = record.run, to_bytes(record.run.run_id)
    name, key = run.project_name, keys.run(packed)
    fields = encode_record(record) | {b"%d" % place: encode_item(item) for place, item in enumerate(items)}
    commands = [[b"UNLINK", key], [b"HSET", key, *(part for field in fields.items() for part in field)]]
    commands.append([b"ZADD", keys.ids(name, packed.hex()), b"0", packed])
    commands.append([b"ZADD", keys.page(name, record.page), b"%d" % run.created_ms, packed])
    for status in Status:
        if status is run.status and status is not Status.SUCCESS:
            commands.append([b"ZADD", keys.status(name, status), b"%d" % run.created_ms, packed])
        elif status is not Status.SUCCESS:
            commands.append([b"ZREM", keys.status(name, status), packed])
    if run.is_terminal:
        commands.append([b"ZADD", keys.finished(name), b"GT", b"%d" % end_ms(run), b"%d" % record.page])
    commands += [[b"PERSIST", part] for ref in _refs(run) for part in part_keys(keys, packed, ref)]
    return commands
