"""Run ids by their first hex digits: one small sorted set for each project and three digits in every partition."""

from typing import Final

from runstore.adapters.connection import StoreClient
from runstore.adapters.meta import Meta
from runstore.core.ids import RunId, from_bytes, to_bytes

_DIGITS: Final = 32
_KEYS_A_PIPELINE: Final = 1000


async def find(
    client: StoreClient, meta: Meta, digits: str, projects: frozenset[str] | None, limit: int
) -> list[RunId]:
    """Find runs by 4 to 32 hex digits among the projects (None: all), at most `limit`, in order of id."""
    if len(digits) == _DIGITS:
        return await _find_whole(client, meta, from_bytes(bytes.fromhex(digits)), projects)
    low, high = (b"[" + bytes.fromhex(digits.ljust(_DIGITS, edge)) for edge in "0f")
    named = await projects_of(client, meta, projects)
    indexes = [keys.ids(name, digits) for keys, names in zip(meta.keys, named, strict=True) for name in names]
    found: set[bytes] = set()
    for begin in range(0, len(indexes), _KEYS_A_PIPELINE):
        pipe = client.pipeline(transaction=False)
        for index in indexes[begin : begin + _KEYS_A_PIPELINE]:
            pipe.execute_command("ZRANGEBYLEX", index, low, high, "LIMIT", 0, limit)
        for members in await pipe.execute():
            found.update(members)
    return [from_bytes(packed) for packed in sorted(found)[:limit]]


async def _find_whole(client: StoreClient, meta: Meta, run_id: RunId, projects: frozenset[str] | None) -> list[RunId]:
    owner = await client.execute_command("HGET", meta.keys_of(run_id).run(to_bytes(run_id)), "p")
    known = owner is not None and (projects is None or owner.decode() in projects)
    return [run_id] if known else []


async def projects_of(client: StoreClient, meta: Meta, projects: frozenset[str] | None) -> list[list[str]]:
    """Name the projects to look in, for every partition: those given, or all that have a run there."""
    if projects is not None:
        return [sorted(projects)] * meta.partitions
    pipe = client.pipeline(transaction=False)
    for keys in meta.keys:
        pipe.execute_command("HKEYS", keys.projects)
    return [[name.decode() for name in names] for names in await pipe.execute()]
