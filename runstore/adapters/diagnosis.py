"""Look at a store as a doctor does: read whatever tells whether it is well, and change nothing.

Nothing is created in a Redis that holds no store yet, and a replica is looked at too, so that it can be named as one.
"""

from time import time
from typing import Any, Final, NamedTuple

import msgspec

from runstore.adapters.cluster import ClusterClient
from runstore.adapters.connection import Greeting, Script, StoreClient
from runstore.adapters.connections import open_client
from runstore.adapters.growth import Growth, grown
from runstore.adapters.log import LOG_END, parse_entry_id
from runstore.adapters.mark import get_marks
from runstore.adapters.meta import MAX_PARTITIONS
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId
from runstore.wire.feed import decode_feed
from runstore.wire.keys import META, PROJECTORS, PartitionKeys

COUNTED: Final = 1_000
"""Entries that are counted behind a cursor, and no more."""

_READ_BYTES: Final = 4 * 1024 * 1024
"""Bytes of entries that are read for that, and no more."""

_BEHIND: Final = Script("""
-- a server gives entries whole, so their number is found by reading them: few at once, and no more once they are large
local number, size, page, after, first = 0, 0, 1, ARGV[1], ''
while number < tonumber(ARGV[2]) and size < tonumber(ARGV[3]) do
  local rows = redis.pcall('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', math.min(page, tonumber(ARGV[2]) - number))
  -- nothing can lie behind the largest id, and a server calls it an error to ask
  if rows.err or #rows == 0 then return {number, first, 1} end
  if number == 0 then first = rows[1][1] end
  for _, row in ipairs(rows) do
    for _, text in ipairs(row[2]) do size = size + #text end
  end
  number, after, page = number + #rows, rows[#rows][1], math.min(page * 2, 64)
end
return {number, first, 0}
""")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of a partition's dead letters."""

    entry: str
    reason: str
    at_ms: int


class PartitionSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One partition. `trouble` set: it could not be read, and the rest says nothing.

    Units: `behind` counts events that wait for a projector, up to `COUNTED` and fewer where they are large, as
    `behind_is_all` says; times are the store's.
    """

    partition: int
    trouble: str = ""
    last_ms: int = 0
    behind: int = 0
    behind_is_all: bool = True
    oldest_waiting_ms: int | None = None
    dead: int = 0
    newest_dead: DeadLetter | None = None
    oldest_lease_ms: int | None = None
    oldest_deadline_ms: int | None = None
    unsafe_ms: int | None = None
    """When the newest event came whose commit waits for the safe mark."""


class StoreSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A store as it was found. None: the server does not say.

    Units: bytes; milliseconds since 1970 UTC by the store's clock, `own_ms` by ours.
    """

    server: str
    version: str
    role: str | None
    policy: str | None
    used_bytes: int | None
    limit_bytes: int | None
    machine_bytes: int | None = None
    """What the whole machine has."""

    growth: Growth | None = None
    """None: the store is too young to say, or has too many projects."""

    has_aof: bool | None
    fsync: str | None = None
    write_failure: str
    now_ms: int
    own_ms: int
    stored_partitions: str | None = None
    projectors: int = 0
    partitions: tuple[PartitionSeen, ...] = ()
    strays: tuple[int, ...] = ()
    """Numbers past the store's partitions that have a log all the same: nobody reads it."""

    others: tuple[tuple[str, "StoreSeen"], ...] = ()
    """The other primaries of a cluster by their addresses; of each only what is said of the server."""


async def look(url: str, *, timeout_s: float = 5.0) -> StoreSeen:
    """Look at the store behind a URL.

    Raises: InvalidRequest for a URL that cannot be; StoreUnavailable where nothing answers.
    """
    greeting = Greeting()
    greeting.knows_role = False
    client = open_client(url, max_connections=4, timeout_s=timeout_s, greeting=greeting)
    try:
        return await _look(client)
    finally:
        await client.shut()


async def _look(client: StoreClient) -> StoreSeen:
    await client.execute_command("PING")
    stored = await _ask(client, "HGET", META, "partitions")
    alive = await _ask(client, "ZCOUNT", PROJECTORS, await _now_ms(client), "+inf")
    text = stored.decode(errors="replace") if isinstance(stored, bytes) else None
    count = int(text) if text is not None and text.isdigit() and 1 <= int(text) <= MAX_PARTITIONS else 0
    others: list[tuple[str, StoreSeen]] = []
    server = client
    if isinstance(client, ClusterClient):
        holder = await client.holder(META)
        server = client.at(holder)
        rest = sorted(client.primaries - {holder})
        others = [(f"{host}:{port}", await _look_at(client.at((host, port)))) for host, port in rest]
    seen = await _look_at(server)
    parts = [PartitionKeys(number) for number in range(count)]
    return msgspec.structs.replace(
        seen,
        growth=await grown(client, parts, seen.now_ms),
        stored_partitions=text,
        projectors=alive if isinstance(alive, int) else 0,
        partitions=tuple([await _partition(client, keys) for keys in parts]),
        strays=await _strays(client, count) if count else (),
        others=tuple(others),
    )


async def _look_at(client: StoreClient) -> StoreSeen:
    """Look at one server, whatever it holds."""
    info = await _info(client)
    before_ms = time() * 1000
    now_ms = await _now_ms(client)
    own_ms = round((before_ms + time() * 1000) / 2)
    role = await _ask(client, "ROLE")
    return StoreSeen(
        server="Valkey" if "valkey_version" in info else "Redis",
        version=info.get("valkey_version") or info.get("redis_version") or "",
        role=role[0].decode(errors="replace") if isinstance(role, list) and role else None,
        policy=info.get("maxmemory_policy"),
        used_bytes=_number(info.get("used_memory")),
        limit_bytes=_number(info.get("maxmemory")),
        machine_bytes=_number(info.get("total_system_memory")),
        has_aof=None if "aof_enabled" not in info else info["aof_enabled"] == "1",
        fsync=await _configured(client, "appendfsync"),
        write_failure=_write_failure(info),
        now_ms=now_ms,
        own_ms=own_ms,
    )


async def _strays(client: StoreClient, count: int) -> tuple[int, ...]:
    pipe = client.pipeline(transaction=False)
    for number in range(count, MAX_PARTITIONS):
        pipe.execute_command("EXISTS", PartitionKeys(number).events)
    found = await pipe.execute() if count < MAX_PARTITIONS else []
    return tuple(count + place for place, exists in enumerate(found) if exists)


async def _partition(client: StoreClient, keys: PartitionKeys) -> PartitionSeen:
    """Read one partition. Raises: nothing that is about this partition alone."""
    try:
        entry = await client.execute_command("HGET", keys.cursor, "entry")
        behind = await behind_of(client, keys, entry)
        last = parse_entry_id(await LOG_END.run(client, [keys.events], []))
        return PartitionSeen(
            partition=keys.partition,
            last_ms=last.ms,
            behind=behind.events,
            behind_is_all=behind.is_all,
            oldest_waiting_ms=behind.oldest_ms,
            dead=await client.execute_command("XLEN", keys.dead),
            newest_dead=_dead(await client.execute_command("XREVRANGE", keys.dead, "+", "-", "COUNT", 1)),
            oldest_lease_ms=await _least(client, keys.leases),
            oldest_deadline_ms=_earlier(
                await _least(client, keys.deadlines), await _least(client, keys.queue_deadlines)
            ),
            unsafe_ms=await _unsafe_ms(client, keys),
        )
    except (StoreUnavailable, ValueError) as error:
        await client.drop()
        return PartitionSeen(partition=keys.partition, trouble=str(error)[:200])


class Behind(NamedTuple):
    """The events behind an entry, as far as they were counted: `is_all` says whether that is all of them.

    Units: `oldest_ms` is when the oldest came, in milliseconds by the store's clock.
    """

    events: int
    oldest_ms: int | None
    is_all: bool


async def behind_of(client: StoreClient, keys: PartitionKeys, entry: bytes | None) -> Behind:
    """Count the events behind an entry, up to `COUNTED`, and fewer where they are large."""
    events, oldest, is_all = await _BEHIND.run(client, [keys.events], [entry or b"0-0", COUNTED, _READ_BYTES])
    return Behind(events, parse_entry_id(oldest).ms if oldest else None, bool(is_all))


async def _unsafe_ms(client: StoreClient, keys: PartitionKeys) -> int | None:
    [mark] = await get_marks(client, [keys])
    rows = await client.execute_command("XREVRANGE", keys.feed, "+", "-", "COUNT", 1)
    try:
        newest = decode_feed(rows[0][1][b"c"]) if rows else None
    except (msgspec.MsgspecError, KeyError):
        return None
    if newest is None or not newest.is_marked or (mark is not None and mark.n >= newest.n):
        return None
    return newest.entry[0]


def _dead(rows: Any) -> DeadLetter | None:
    if not rows:
        return None
    entry_id, fields = rows[0]
    fields = dict(fields) if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=False))
    place: EntryId = parse_entry_id(entry_id)
    return DeadLetter(
        entry=fields.get(b"entry", b"").decode(errors="replace"),
        reason=fields.get(b"reason", b"no reason was kept").decode(errors="replace")[:300],
        at_ms=place.ms,
    )


async def _least(client: StoreClient, key: bytes) -> int | None:
    found = await client.execute_command("ZRANGE", key, 0, 0, "WITHSCORES")
    if not found:
        return None
    first = found[0]
    return round(float(first[1] if isinstance(first, (tuple, list)) else found[1]))


def _earlier(*times: int | None) -> int | None:
    return min((moment for moment in times if moment is not None), default=None)


async def _info(client: StoreClient) -> dict[str, str]:
    """Read what the server says of itself; little where it says little."""
    answer = await _ask(client, "INFO")
    return {str(name): str(value) for name, value in answer.items()} if isinstance(answer, dict) else {}


async def _configured(client: StoreClient, name: str) -> str | None:
    answer = await _ask(client, "CONFIG", "GET", name)
    return answer[1].decode(errors="replace") if isinstance(answer, list) and len(answer) == 2 else None


async def _now_ms(client: StoreClient) -> int:
    seconds, micros = await client.execute_command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def _ask(client: StoreClient, *words: Any) -> Any:
    """Ask what a server need not answer, be it for its age or for what this user may."""
    try:
        return await client.execute_command(*words)
    except StoreUnavailable:
        # some stand-ins hang up after a command that they do not know; a server that has gone is noticed by the next
        await client.drop()
        return None


def _write_failure(info: dict[str, str]) -> str:
    if info.get("aof_last_write_status", "ok") != "ok":
        return "the last write to the append-only file failed"
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        return "the last rewrite of the append-only file failed"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "the last snapshot failed"
    return ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
