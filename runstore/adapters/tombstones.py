"""Which ids may be in the archive, or were erased: a Bloom filter in each partition, that grows by layers.

A layer holds twice as many ids as the one before it, at 14 bits each, and takes one stranger in a thousand for its own.
Bits are set before a run leaves, by an earlier command on the same server, and never cleared: what leaves is always
known. Beside them stands, for each project, when the newest run that ever left was created, so that nobody asks the
archive about times that it has nothing of.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from runstore.adapters.connection import Script, StoreClient
from runstore.core.ids import RunId, to_bytes
from runstore.wire.keys import PartitionKeys

LAYERS: Final = 20
_FIRST_IDS: Final = 1024
_BITS_AN_ID: Final = 14
_PROBES: Final = 10
_IDS_A_CALL: Final = 500
_TRACE_BYTES: Final = 13
_ADD: Final = Script("""
local first, bits, probes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function number(field)
  local text = redis.call('HGET', KEYS[1], field)
  return tonumber(text or '0') or 0
end
local function raise(field, value)
  if tonumber(value) > number(field) then redis.call('HSET', KEYS[1], field, value) end
end
local layer, held = number('l'), number('n')
raise('e', ARGV[4])
local at = 6
for _ = 1, tonumber(ARGV[5]) do
  raise('c:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
for i = at, #ARGV, 2 do
  local one, two = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  if held >= first * 2 ^ layer and layer + 3 <= #KEYS then layer, held = layer + 1, 0 end
  local size, fresh = first * 2 ^ layer * bits, 0
  for probe = 0, probes - 1 do
    local place = string.format('%.0f', (one + probe * two) % size)
    if redis.call('SETBIT', KEYS[layer + 2], place, 1) == 0 then fresh = 1 end
  end
  held = held + fresh
end
redis.call('HSET', KEYS[1], 'l', string.format('%.0f', layer), 'n', string.format('%.0f', held))
return 1
""")
_PERHAPS: Final = Script("""
local first, bits, probes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found, top = {}, tonumber(redis.call('HGET', KEYS[1], 'l') or '-1') or -1
for i = 4, #ARGV, 2 do
  local one, two, known = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), 0
  for layer = top, 0, -1 do
    local size, all = first * 2 ^ layer * bits, 1
    for probe = 0, probes - 1 do
      local place = string.format('%.0f', (one + probe * two) % size)
      if redis.call('GETBIT', KEYS[layer + 2], place) == 0 then all = 0; break end
    end
    if all == 1 then known = 1; break end
  end
  found[#found + 1] = known
end
return found
""")


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """What left a partition so far: when the last of it ended, and by project when the newest of it was created.

    Units: milliseconds since 1970 UTC; a project that nothing left of is not named.
    """

    end_ms: int
    newest_ms: dict[str, int]


class Trace(NamedTuple):
    """What is kept of an erased run's id: what its partition is told by, and its places in a filter."""

    crc32: int
    hashed: bytes


def filter_bytes(ids: int) -> int:
    """Return how many bytes a partition's filter takes once so many ids have left it."""
    layer, held, total = 0, 0, 0
    while held < ids or not layer:
        held += _FIRST_IDS * 2**layer
        total += _FIRST_IDS * 2**layer * _BITS_AN_ID // 8
        layer += 1
    return total


async def add(
    client: StoreClient, keys: PartitionKeys, run_ids: Sequence[RunId], *, end_ms: int, newest_ms: Mapping[str, int]
) -> None:
    """Know ids as ones that leave, the last of which ended at `end_ms`; without ids, only the times are told.

    Raises: StoreUnavailable.
    """
    told = [part for item in newest_ms.items() for part in item]
    for begin in range(0, max(1, len(run_ids)), _IDS_A_CALL):
        places = [place for run_id in run_ids[begin : begin + _IDS_A_CALL] for place in _places(run_id)]
        args = [_FIRST_IDS, _BITS_AN_ID, _PROBES, end_ms, len(newest_ms), *told, *places]
        await _ADD.run(client, _keys(keys), args)


async def perhaps(client: StoreClient, keys: PartitionKeys, run_ids: Sequence[RunId]) -> list[RunId]:
    """Return those ids of one partition that may have left it. Raises: StoreUnavailable."""
    found: list[RunId] = []
    for begin in range(0, len(run_ids), _IDS_A_CALL):
        part = run_ids[begin : begin + _IDS_A_CALL]
        places = [place for run_id in part for place in _places(run_id)]
        known = await _PERHAPS.run(client, _keys(keys), [_FIRST_IDS, _BITS_AN_ID, _PROBES, *places])
        found += [run_id for run_id, is_known in zip(part, known, strict=True) if is_known]
    return found


async def gone(client: StoreClient, partitions: Iterable[PartitionKeys], projects: frozenset[str] | None) -> list[Gone]:
    """Return what left each partition, of some projects (None: of all). Raises: StoreUnavailable."""
    pipe = client.pipeline(transaction=False)
    names = sorted(projects) if projects is not None else []
    for keys in partitions:
        if projects is None:
            pipe.execute_command("HGETALL", keys.archived)
        else:
            pipe.execute_command("HMGET", keys.archived, "e", *(f"c:{name}" for name in names))
    found = []
    for reply in await pipe.execute():
        if projects is None:
            newest = {name[2:].decode(): int(ms) for name, ms in reply.items() if name.startswith(b"c:")}
            found.append(Gone(end_ms=int(reply.get(b"e", 0)), newest_ms=newest))
        else:
            newest = {name: int(ms) for name, ms in zip(names, reply[1:], strict=True) if ms is not None}
            found.append(Gone(end_ms=int(reply[0] or 0), newest_ms=newest))
    return found


def trace_of(run_id: RunId) -> bytes:
    """Return what an erased run's id is known by again in a filter that was lost: hashes of it, and no more."""
    return b"1" + crc32(run_id.encode()).to_bytes(4, "big") + _hashed(run_id)


def read_trace(body: bytes) -> Trace | None:
    """Read a trace; None where it is none."""
    if len(body) != _TRACE_BYTES or not body.startswith(b"1"):
        return None
    return Trace(int.from_bytes(body[1:5], "big"), body[5:])


async def add_trace(client: StoreClient, partitions: Sequence[PartitionKeys], trace: Trace) -> None:
    """Know an id again by its trace, if it is not known. Raises: StoreUnavailable."""
    keys, places = partitions[trace.crc32 % len(partitions)], _places_of(trace.hashed)
    if not (await _PERHAPS.run(client, _keys(keys), [_FIRST_IDS, _BITS_AN_ID, _PROBES, *places]))[0]:
        await _ADD.run(client, _keys(keys), [_FIRST_IDS, _BITS_AN_ID, _PROBES, 0, 0, *places])


def _keys(keys: PartitionKeys) -> list[bytes]:
    return [keys.archived, *(keys.sieve(layer) for layer in range(LAYERS))]


def _places(run_id: RunId) -> tuple[int, int]:
    return _places_of(_hashed(run_id))


def _hashed(run_id: RunId) -> bytes:
    return blake2b(to_bytes(run_id), digest_size=8, person=b"runstore").digest()


def _places_of(hashed: bytes) -> tuple[int, int]:
    return int.from_bytes(hashed[:4], "big"), int.from_bytes(hashed[4:], "big") | 1
