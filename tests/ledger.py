"""The ledger: what a store should hold after its log, folded once by the core alone, against all that it does hold.

It reads a dump of every key, knows nothing of projectors, and returns each difference as a sentence.
Needs: a log of which nothing was trimmed, folded to its end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import redis

from runstore.adapters.outputs import CAP_BYTES, CHUNK_BYTES, part_keys, unpack
from runstore.core.event import EntryId, OutputRef
from runstore.core.fold import Ignored, Refused, project
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.run import HistoryItem, Run
from runstore.core.status import TERMINAL, Status
from runstore.projection.reading import Heard, read_entry
from runstore.projection.writes import end_ms
from runstore.wire.feed import FeedEntry, decode_feed
from runstore.wire.keys import PartitionKeys
from runstore.wire.keys import numbers as numbers_key
from runstore.wire.record import decode_history, decode_record

PAGE_RUNS = 100


class Dump(msgspec.Struct):
    """Every key: hashes and sorted sets as dicts, streams as lists of (id, fields), strings as bytes."""

    values: dict[bytes, Any]
    expiring: set[bytes]

    def get(self, key: bytes, otherwise: Any) -> Any:
        return self.values.get(key, otherwise)


def dump_of(url: str) -> Dump:
    """Read a whole server."""
    client = redis.Redis.from_url(url, protocol=2)
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": client.hgetall,
        b"zset": lambda key: dict(client.zrange(key, 0, -1, withscores=True)),  # type: ignore[arg-type]
        b"stream": client.xrange,
        b"string": client.get,
    }
    names: list[bytes] = client.keys("runstore:*")  # type: ignore[assignment]
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.type(name)
        pipe.pttl(name)
    kinds = pipe.execute()
    dump = Dump(values={}, expiring=set())
    for place, name in enumerate(names):
        kind, left_ms = kinds[2 * place : 2 * place + 2]
        if kind != b"none":
            dump.values[name] = readers[kind](name)
        if left_ms >= 0:
            dump.expiring.add(name)
    client.close()
    return dump


class Folded(msgspec.Struct):
    """One partition's log, folded by the core: runs in the order in which they began, and what was told of them."""

    runs: dict[RunId, Run] = msgspec.field(default_factory=dict)
    histories: dict[RunId, list[HistoryItem]] = msgspec.field(default_factory=lambda: defaultdict(list))
    told: list[tuple[Run, HistoryItem | None]] = msgspec.field(default_factory=list)
    dead: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    stats: Counter[str] = msgspec.field(default_factory=Counter)
    numbered: dict[RunId, str] = msgspec.field(default_factory=dict)
    asked: set[RunId] = msgspec.field(default_factory=set)
    outputs: dict[tuple[RunId, bytes], bytes] = msgspec.field(default_factory=dict)


def fold(
    log: list[tuple[bytes, dict[bytes, bytes]]], partition: int, partitions: int, numbers: dict[RunId, Any]
) -> Folded:
    """Fold a log. `numbers` are taken from the store: that they are 1 … N is looked at elsewhere."""
    folded = Folded()
    for place, fields in log:
        entry_id = EntryId(*map(int, place.split(b"-")))
        heard = read_entry(entry_id, fields, partition=partition, partitions=partitions)
        if not isinstance(heard, Heard):
            folded.dead.append((place, heard.reason.encode()))
            folded.stats["unreadable"] += 1
            continue
        event, run_id = heard.entry.event, heard.entry.event.run_id
        if event.output is not None and event.status in TERMINAL:
            folded.outputs[run_id, place] = event.output
            event = msgspec.structs.replace(event, output=None, output_ref=_inline(place, event.output))
        entry = msgspec.structs.replace(heard.entry, event=event)
        before = folded.runs.get(run_id)
        outcome = project(before, entry, run_number=numbers.get(run_id) if event.numbered else None)
        folded.stats["unknown_fields"] += heard.unknown_fields
        if isinstance(outcome, Refused):
            folded.dead.append((place, outcome.reason.encode()))
            folded.stats["refused"] += 1
            continue
        folded.stats["ignored" if isinstance(outcome, Ignored) else "applied"] += 1
        folded.runs[run_id] = outcome.run
        if before is None and event.numbered:
            folded.numbered[run_id] = outcome.run.project_name
        if before is None and event.request is not None and event.status is Status.PENDING:
            folded.asked.add(run_id)
        if outcome.item is not None:
            folded.histories[run_id].append(outcome.item)
        if not isinstance(outcome, Ignored) or outcome.item is not None:
            folded.told.append((outcome.run, outcome.item))
    return folded


def _inline(place: bytes, output: bytes) -> OutputRef:
    chunks = -(-len(output) // CHUNK_BYTES) if len(output) > CAP_BYTES else 0
    return OutputRef(token=place, output_bytes=len(output), chunks=chunks, truncated=bool(chunks))


def check(dump: Dump, partitions: int) -> list[str]:
    """Say how a store differs from one fold of its log; empty where it does not."""
    found: list[str] = []
    known: set[bytes] = set()
    numbered: defaultdict[str, dict[RunId, int | None]] = defaultdict(dict)
    for keys in map(PartitionKeys, range(partitions)):
        check_one = _Partition(dump, keys, partitions)
        found += check_one.differences()
        known |= check_one.known
        for run_id, name in check_one.folded.numbered.items():
            numbered[name][run_id] = check_one.folded.runs[run_id].run_number
    found += _check_numbers(dump, numbered, known)
    extra = {key for key in dump.values if key.startswith(b"runstore:{")} - known
    found += [f"the key {key!r} is left over" for key in sorted(extra)]
    return found


def _check_numbers(dump: Dump, numbered: dict[str, dict[RunId, int | None]], known: set[bytes]) -> Iterator[str]:
    for name, given in numbered.items():
        known.add(numbers_key(name))
        kept = dump.get(numbers_key(name), {})
        if sorted(given.values(), key=repr) != sorted(range(1, len(given) + 1), key=repr):
            yield f"the run numbers of {name} are {sorted(given.values(), key=repr)}"
        if int(kept.get(b"last", 0)) != len(given):
            yield f"the last run number of {name} is {kept.get(b'last')!r}, of {len(given)}"
        left = {field: value for field, value in kept.items() if field.startswith(b"r:")}
        for field, value in left.items():
            if given.get(from_bytes(field[2:])) != int(value):
                yield f"the run number {value!r} of {name} stays reserved"


class _Partition:
    def __init__(self, dump: Dump, keys: PartitionKeys, partitions: int) -> None:
        self.keys = keys
        self.dump = dump
        self.log = dump.get(keys.events, [])
        self.hashes = {
            from_bytes(key[-16:]): value
            for key, value in dump.values.items()
            if key.startswith(keys.run(b"")) and len(key) == len(keys.run(b"")) + 16
        }
        self.records = {run_id: decode_record(run_id, fields) for run_id, fields in self.hashes.items()}
        numbers = {run_id: record.run.run_number for run_id, record in self.records.items() if record is not None}
        self.folded = fold(self.log, keys.partition, partitions, numbers)
        always = {keys.events, keys.cursor, keys.feed, keys.dead, keys.stats, keys.projects, keys.offers, keys.controls}
        self.known = {*always, keys.owner, *(keys.run(to_bytes(run_id)) for run_id in self.folded.runs)}

    def differences(self) -> Iterator[str]:
        where = f"partition {self.keys.partition}: "
        for part in (self._cursor, self._runs, self._feed, self._indexes, self._dispatch, self._outputs, self._rest):
            for sentence in part():
                yield where + sentence

    def _cursor(self) -> Iterator[str]:
        entry = self.dump.get(self.keys.cursor, {}).get(b"entry", b"0-0")
        last = self.log[-1][0] if self.log else b"0-0"
        if entry != last:
            yield f"the cursor stands at {entry!r}, the log ends at {last!r}"

    def _runs(self) -> Iterator[str]:
        begun: Counter[str] = Counter()
        for run_id, run in self.folded.runs.items():
            record = self.records.get(run_id)
            page, begun[run.project_name] = begun[run.project_name] // PAGE_RUNS, begun[run.project_name] + 1
            if record is None:
                yield f"the run {run_id} is missing"
                continue
            if record.run != run:
                yield f"the run {run_id} is {record.run}, by the fold {run}"
            if record.page != page:
                yield f"the run {run_id} is on page {record.page} of its project, not {page}"
            if decode_history(self.hashes[run_id]) != self.folded.histories[run_id]:
                yield f"the history of {run_id} is not the fold's"
        yield from (f"the run {run_id} is in no event" for run_id in self.records.keys() - self.folded.runs.keys())
        counts = {name.decode(): int(count) for name, count in self.dump.get(self.keys.projects, {}).items()}
        if counts != begun:
            yield f"the runs of projects are counted as {counts}, not {dict(begun)}"

    def _feed(self) -> Iterator[str]:
        rows = self.dump.get(self.keys.feed, [])
        entries = [decode_feed(fields[b"c"]) for _, fields in rows]
        if [entry.n for entry in entries] != list(range(1, len(entries) + 1)):
            yield f"the feed is not dense: {[entry.n for entry in entries]}"
        if [place for place, _ in rows] != [b"%d-0" % entry.n for entry in entries]:
            yield "feed entries do not lie at their numbers"
        yield from self._chain(entries)
        told = [(change.run, change.item) for entry in entries for change in entry.changes]
        if told != self.folded.told:
            yield f"the feed told {len(told)} changes, the fold makes {len(self.folded.told)}, or others"
        newest: dict[RunId, int] = {}
        for entry in entries:
            newest.update((change.run.run_id, entry.n) for change in entry.changes)
        for run_id, n in newest.items():
            record = self.records.get(run_id)
            if record is not None and record.version < n:
                yield f"the run {run_id} has version {record.version}, and commit {n} told of it"

    def _chain(self, entries: list[FeedEntry]) -> Iterator[str]:
        if len({entry.nonce for entry in entries}) != len(entries):
            yield "two commits have the same nonce"
        before = b""
        for entry in entries:
            if entry.before is not None and entry.before != before:
                yield f"commit {entry.n} does not follow commit {entry.n - 1}"
            before = entry.nonce
        cursor = self.dump.get(self.keys.cursor, {})
        if entries and (cursor.get(b"nonce"), cursor.get(b"n")) != (before, b"%d" % len(entries)):
            yield "the cursor is not the last commit's"

    def _indexes(self) -> Iterator[str]:
        wanted: defaultdict[bytes, dict[bytes, float]] = defaultdict(dict)
        places: Counter[str] = Counter()
        for run_id, run in self.folded.runs.items():
            packed, name, page = to_bytes(run_id), run.project_name, places[run.project_name] // PAGE_RUNS
            if places[name] % PAGE_RUNS == 0:
                wanted[self.keys.pages(name)][b"%d" % page] = run.created_ms
            places[name] += 1
            wanted[self.keys.ids(name, packed.hex())][packed] = 0
            wanted[self.keys.page(name, page)][packed] = run.created_ms
            if run.status is not Status.SUCCESS:
                wanted[self.keys.status(name, run.status)][packed] = run.created_ms
            if run.is_terminal:
                ends = wanted[self.keys.finished(name)]
                ends[b"%d" % page] = max(ends.get(b"%d" % page, 0), end_ms(run))
        self.known |= wanted.keys()
        for key, members in wanted.items():
            if self.dump.get(key, {}) != members:
                yield f"the index {key!r} holds {self.dump.get(key, {})}, not {members}"

    def _dispatch(self) -> Iterator[str]:
        held = {from_bytes(packed) for packed in self.dump.get(self.keys.leases, {})}
        for run_id, run in self.folded.runs.items():
            packed, is_open = to_bytes(run_id), not run.is_terminal
            queued = packed in self.dump.get(self.keys.queue(run.project_name), {})
            if queued and not (is_open and run_id in self.folded.asked):
                yield f"the run {run_id} waits in a queue, and is {run.status}"
            is_watched = run_id in held or (
                run.status is not Status.PENDING and packed in self.dump.get(self.keys.deadlines, {})
            )
            if run_id in self.folded.asked and is_open and not queued and not is_watched:
                yield f"the run {run_id} was asked for, and is neither in a queue nor held"
            if is_open:
                self.known |= {self.keys.queue(run.project_name), self.keys.request(packed), self.keys.lease(packed)}
        for key in (self.keys.leases, self.keys.deadlines, self.keys.queue_deadlines):
            self.known.add(key)
            runs = [self.folded.runs.get(from_bytes(packed)) for packed in self.dump.get(key, {})]
            yield from (f"{key!r} holds {run}" for run in runs if run is None or run.is_terminal)

    def _outputs(self) -> Iterator[str]:
        for run_id, run in self.folded.runs.items():
            for ref in (run.output, run.late_output):
                if ref is None:
                    continue
                parts = part_keys(self.keys, to_bytes(run_id), ref)
                self.known |= set(parts)
                missing = [part for part in parts if part not in self.dump.values]
                if missing:
                    yield f"the run {run_id} lacks {missing} of its output"
                    continue
                yield from (f"{part!r} expires, and a run keeps it" for part in parts if part in self.dump.expiring)
                whole = b"".join(unpack(self.dump.values[part]) for part in (parts[1:] or parts))
                if len(whole) != ref.output_bytes or self.folded.outputs.get((run_id, ref.token), whole) != whole:
                    yield f"the output of {run_id} is not what was told"
        # what was written for an event that never came ends by itself
        self.known |= {
            key
            for key in self.dump.expiring
            if key.startswith((self.keys.output(b"", b"", "")[:-2], self.keys.logs(b"")))
        }

    def _rest(self) -> Iterator[str]:
        dead = [(fields[b"entry"], fields[b"reason"]) for _, fields in self.dump.get(self.keys.dead, [])]
        if dead != self.folded.dead:
            yield f"the dead letters are {dead}, not {self.folded.dead}"
        stats = {name.decode(): int(count) for name, count in self.dump.get(self.keys.stats, {}).items()}
        if stats != {name: count for name, count in self.folded.stats.items() if count}:
            yield f"the counters are {stats}, not {dict(self.folded.stats)}"
