"""Read a whole store when nobody writes any more, and look for what is left over."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from runstore.adapters.cluster import ClusterClient
from runstore.adapters.log import parse_entry_id
from runstore.adapters.store import RedisStore
from runstore.core.event import EntryId
from runstore.core.ids import RunId, from_bytes
from runstore.core.run import HistoryItem
from runstore.publish.spools import waiting
from runstore.wire.feed import decode_feed
from runstore.wire.keys import PROJECTORS
from runstore.wire.record import Record, decode_history, decode_record
from tests.chaos.stored import Rest

_PAGE: Final = 2000
_INDEXES: Final = (b"i", b"t", b"tp", b"tf", b"s")
_LEFT_ZSETS: Final = ("leases", "deadlines", "queue_deadlines")


async def read_final(url: str) -> Rest:
    """Read everything. Units: memory for all of it."""
    async with RedisStore.open(url, timeout_s=60) as store:
        final = Rest(
            partitions=store.meta.partitions, log={}, records={}, histories={}, indexes={}, feed={}, left=Counter()
        )
        for keys in store.meta.keys:
            final.log[keys.partition] = await _entries(store, keys.events)
            rows = await store.client.execute_command("XRANGE", keys.feed, "-", "+")
            told = [decode_feed(fields[b"c"]) for _, fields in rows]
            final.feed[keys.partition] = [(entry.n, entry.nonce, entry.before) for entry in told]
            for name in _LEFT_ZSETS:
                final.left[name] += await store.client.zcard(getattr(keys, name))
            final.left["owners of partitions for ever"] += await store.client.ttl(keys.owner) == -1
        final.left["projectors said to be there"] = await store.client.zcard(PROJECTORS)
        outputs: dict[bytes, bool] = {}
        async for found in scanned(store, "runstore:{*"):
            await _take_keys(store, final, outputs, [key for key in found if not key.startswith(b"runstore:{n:")])
        named = {ref.token for record in final.records.values() for ref in _outputs(record)}
        final.left["outputs of no run that never expire"] = sum(
            never and key.split(b":o:", 1)[1][17:].rpartition(b":")[0] not in named for key, never in outputs.items()
        )
        return final


async def scanned(store: RedisStore, match: str) -> AsyncIterator[list[bytes]]:
    """Yield the names of keys, page by page, of every server that holds some."""
    client = store.client
    for each in [client.at(node) for node in client.primaries] if isinstance(client, ClusterClient) else [client]:
        cursor = 0
        while True:
            cursor, found = await each.scan(cursor, match=match, count=_PAGE)
            yield found
            if not cursor:
                break


def spooled(folder: Path) -> int:
    """Count the events that wait in spools."""
    return sum(spool.events for spool in waiting(folder))


def _outputs(record: Record) -> list[Any]:
    return [ref for ref in (record.run.output, record.run.late_output) if ref is not None]


async def _entries(store: RedisStore, key: bytes) -> list[tuple[EntryId, dict[bytes, bytes]]]:
    found: list[tuple[EntryId, dict[bytes, bytes]]] = []
    least = b"-"
    while rows := await store.client.execute_command("XRANGE", key, least, "+", "COUNT", _PAGE):
        found += [(parse_entry_id(place), fields) for place, fields in rows]
        least = b"(" + rows[-1][0]
    return found


async def _take_keys(store: RedisStore, final: Rest, outputs: dict[bytes, bool], found: list[bytes]) -> None:
    """Take what some keys hold. The scan may give a key twice."""
    pipe = store.client.pipeline(transaction=False)
    asked: list[tuple[str, bytes, Any]] = []
    for key in found:
        head, _, rest = key.partition(b"}:")
        kind, _, of = rest.partition(b":")
        partition = int(head.partition(b"{")[2])
        if kind == b"r":
            pipe.hgetall(key)
            asked.append(("run", key, from_bytes(of)))
        elif kind in _INDEXES:
            pipe.zrange(key, 0, -1, withscores=True)
            asked.append(("index", key, (partition, kind.decode(), of.decode())))
        elif kind == b"o":
            pipe.ttl(key)
            asked.append(("output", key, None))
        elif kind in (b"q", b"l", b"w"):
            final.left[{b"q": "requests", b"l": "leases of runs", b"w": "queues"}[kind]] += 1
    for (what, key, about), reply in zip(asked, await pipe.execute(), strict=True):
        if what == "run":
            _take_run(final, about, reply)
        elif what == "index":
            final.indexes[about] = {member: int(score) for member, score in reply}
        else:
            outputs[key] = reply < 0


def _take_run(final: Rest, run_id: RunId, fields: dict[bytes, bytes]) -> None:
    record = decode_record(run_id, fields)
    assert record is not None
    final.records[run_id] = record
    final.histories[run_id] = _history(fields)


def _history(fields: dict[bytes, bytes]) -> list[HistoryItem]:
    return decode_history(fields)
