"""The safe mark of a partition: the newest commit that is known to be as durable as the setting says.

A stream of one entry, so that gateways wait for it and poll for nothing: see `docs/adr/0004`. It is written only while
the cursor still has the commit's nonce: whoever was frozen before it marks nothing that is not there.
"""

from collections.abc import Sequence
from typing import Any, Final

from runstore.adapters.connection import Script, StoreClient
from runstore.adapters.durability import Safety
from runstore.core.errors import StoreUnavailable
from runstore.wire.feed import Mark
from runstore.wire.keys import PartitionKeys

_MARK: Final = Script("""
if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[2] then return 0 end
local told = redis.pcall('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if not told.err and told[1] and told[1][1] == ARGV[1] .. '-0' and told[1][2][2] == ARGV[2] then return 1 end
told = redis.pcall('XADD', KEYS[2], 'MAXLEN', 1, ARGV[1] .. '-0', 'c', ARGV[2])
if type(told) == 'table' and told.err then
  -- the mark of another life, or no mark at all
  redis.call('DEL', KEYS[2])
  redis.call('XADD', KEYS[2], 'MAXLEN', 1, ARGV[1] .. '-0', 'c', ARGV[2])
end
return 1
""")
_TOUCH: Final = Script("""
if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'n', ARGV[1])
return 1
""")


async def put_mark(client: StoreClient, keys: PartitionKeys, mark: Mark) -> None:
    """Write the mark of a commit that is safe, if it is still the partition's newest.

    Raises: StoreUnavailable.
    """
    await _MARK.run(client, [keys.cursor, keys.mark], [mark.n, mark.nonce])


async def confirm(client: StoreClient, keys: PartitionKeys, safety: Safety, mark: Mark) -> bool:
    """Mark a commit that somebody made, if it is known to be safe in time; false where it is not the newest.

    A wait counts what its own connection wrote, so something is written behind the commit.

    Raises: StoreUnavailable.
    """
    is_newest, is_safe = await safety.run(_TOUCH, client, [keys.cursor], [mark.n, mark.nonce])
    if is_newest and is_safe:
        await put_mark(client, keys, mark)
    return bool(is_newest)


async def get_marks(client: StoreClient, partitions: Sequence[PartitionKeys]) -> list[Mark | None]:
    """Get the marks of partitions (None: there is none).

    Raises: StoreUnavailable.
    """
    if not partitions:
        return []
    pipe = client.pipeline(transaction=False)
    for keys in partitions:
        pipe.execute_command("XREVRANGE", keys.mark, "+", "-", "COUNT", 1)
    return [_read(reply) for reply in await pipe.execute(raise_on_error=False)]


def _read(reply: Any) -> Mark | None:
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            return None
        raise StoreUnavailable(f"a mark could not be read: {str(reply)[:200]}") from reply
    return decode_mark(*reply[0]) if reply else None


def decode_mark(place: bytes, fields: dict[bytes, bytes]) -> Mark:
    """Read the entry of a mark."""
    return Mark(int(place.partition(b"-")[0]), fields.get(b"c", b""))
