"""What a folded batch writes: run hashes, indexes of look-ups and listings, the queue, dead letters and counters."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from runstore.adapters.commit import Writes
from runstore.adapters.outputs import part_keys
from runstore.core.fold import MAX_STREAM_MS
from runstore.core.ids import RunId, to_bytes
from runstore.core.run import Run, end_ms
from runstore.core.status import Status
from runstore.core.times import to_iso
from runstore.projection.batch import Batch, Touched, is_waiting
from runstore.wire.event import request_json
from runstore.wire.keys import PAGE_RUNS, PartitionKeys
from runstore.wire.record import changed_fields, encode_item

MOST_DEAD: Final = 10_000
MOST_SIGNALS: Final = 1_000
_ENCODER: Final = msgspec.json.Encoder()


def optional_keys(keys: PartitionKeys) -> frozenset[bytes]:
    """Name the keys whose writes are left out where the key has the wrong type: no run shall wait for them."""
    signals = {keys.offers, keys.controls, keys.leases, keys.deadlines, keys.queue_deadlines}
    return frozenset({keys.dead, keys.stats, *signals})


def write_batch(
    keys: PartitionKeys,
    batch: Batch,
    *,
    counts: Mapping[str, int],
    stats: Mapping[str, int],
    inline: Mapping[tuple[RunId, bytes], bytes],
    is_guess: bool = False,
) -> Writes:
    """Say what a batch writes. `counts` (runs of each project) and `stats` are as they stand before it.

    `inline` are small outputs, packed, by run and token: those that are kept are written with the rest. With `is_guess`
    nobody has looked whether new runs are new: the commit is to see to that.
    """
    writes = Writes()
    _begin_pages(writes, keys, batch, counts)
    for run_id, touched in batch.touched.items():
        _write_run(writes, keys, run_id, touched, inline, is_guess=is_guess)
    for run_id, ref in batch.abandoned():
        for key in part_keys(keys, to_bytes(run_id), ref):
            writes.unlink(key)
    for name, begun in batch.begun.items():
        writes.hset(keys.projects, {name.encode(): b"%d" % (counts.get(name, 0) + begun)})
    for letter in batch.dead:
        # an id made by hand may lie past every date that can be written
        at = to_iso(min(letter.entry_id.ms, MAX_STREAM_MS) * 1000).encode()
        fields = {b"event": letter.text, b"entry": str(letter.entry_id).encode(), b"reason": letter.reason.encode()}
        writes.xadd(keys.dead, MOST_DEAD, fields | {b"at": at})
    if batch.counts:
        writes.hset(keys.stats, {k.encode(): b"%d" % (stats.get(k, 0) + v) for k, v in batch.counts.items() if v})
    return writes


def owners_of(
    keys: PartitionKeys, batch: Batch, wrong: Collection[bytes], *, counts: Mapping[str, int]
) -> dict[RunId, bytes]:
    """Name the runs of a batch that some of the keys would be written for, each with such a key."""
    owners: dict[RunId, bytes] = {}
    counted = Counter(counts)
    for run_id, touched in batch.touched.items():
        alone = Batch(last=batch.last, touched={run_id: touched})
        written = write_batch(keys, alone, counts=counted, stats={}, inline={}).checked()
        for key in written.intersection(wrong):
            owners[run_id] = key
        counted[touched.after.run.project_name] += touched.before is None
    return owners


def _write_run(
    writes: Writes,
    keys: PartitionKeys,
    run_id: RunId,
    touched: Touched,
    inline: Mapping[tuple[RunId, bytes], bytes],
    *,
    is_guess: bool,
) -> None:
    packed, run, before = to_bytes(run_id), touched.after.run, touched.before
    fields, gone = changed_fields(before, touched.after)
    first = before.run.events if before is not None else 0
    for place, item in enumerate(touched.items, first):
        fields[b"%d" % place] = encode_item(item)
    put = writes.begin if is_guess and before is None else writes.hset
    key = keys.run(packed)
    put(key, fields)
    if gone:
        writes.hdel(key, gone)
    if before is None:
        _index(writes, keys, packed, touched)
    was = before.run.status if before is not None else None
    if run.status is not was:
        _move(writes, keys, packed, touched, was)
    for ref in (run.output, run.late_output):
        if ref is not None and (before is None or ref not in (before.run.output, before.run.late_output)):
            part = inline.get((run_id, ref.token))
            for key in part_keys(keys, packed, ref):
                if part is not None:
                    writes.put(key, part)
                else:
                    writes.persist(key)
    if is_waiting(touched):
        _offer(writes, keys, run, touched)


def _index(writes: Writes, keys: PartitionKeys, packed: bytes, touched: Touched) -> None:
    run, page = touched.after.run, touched.after.page
    writes.zadd(keys.ids(run.project_name, run.run_id), 0, packed)
    writes.zadd(keys.page(run.project_name, page), run.created_ms, packed)


def _move(writes: Writes, keys: PartitionKeys, packed: bytes, touched: Touched, was: Status | None) -> None:
    run = touched.after.run
    name = run.project_name
    if was is not None and was is not Status.SUCCESS:
        writes.zrem(keys.status(name, was), packed)
    if run.status is not Status.SUCCESS:
        writes.zadd(keys.status(name, run.status), run.created_ms, packed)
    if run.is_terminal:
        if touched.before is not None:  # else it never waited for a worker
            writes.zrem(keys.queue(name), packed)
            writes.zrem(keys.queue_deadlines, packed)
            writes.unlink(keys.request(packed))
        writes.zadd_up(keys.finished(name), end_ms(run), b"%d" % touched.after.page)
        writes.zrem(keys.leases, packed)
        writes.zrem(keys.deadlines, packed)
        writes.unlink(keys.lease(packed))
        if run.run_number is not None or run.fingerprint:
            writes.xadd(keys.controls, MOST_SIGNALS, {b"id": packed, b"what": b"ended"})


def _offer(writes: Writes, keys: PartitionKeys, run: Run, touched: Touched) -> None:
    request, packed = touched.request, to_bytes(run.run_id)
    assert request is not None
    told = request_json(msgspec.structs.replace(request, traceparent=run.traceparent))
    writes.put(keys.request(packed), _ENCODER.encode(told))
    writes.zadd(keys.queue(run.project_name), run.created_ms, packed)
    if request.queue_timeout_s is not None:
        writes.zadd(keys.queue_deadlines, run.created_ms + round(request.queue_timeout_s * 1000), packed)
    writes.xadd(keys.offers, MOST_SIGNALS, {b"id": packed, b"project": run.project_name.encode()})


def _begin_pages(writes: Writes, keys: PartitionKeys, batch: Batch, counts: Mapping[str, int]) -> None:
    places: dict[str, int] = {}
    for touched in batch.touched.values():
        if touched.before is None:
            name = touched.after.run.project_name
            place = places.get(name, counts.get(name, 0))
            if place % PAGE_RUNS == 0:
                page = b"%d" % (place // PAGE_RUNS)
                writes.zadd(keys.pages(name), touched.after.run.created_ms, page)
            places[name] = place + 1
