"""Whose turn something is that one of several should do at a time, by the store's clock; and the memory it uses."""

from typing import Final

from runstore.adapters.cluster import ClusterClient
from runstore.adapters.connection import Script, StoreClient

_TAKE: Final = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
_LEAVE: Final = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")


class Turn:
    """A lease on a key that says whose turn it is. It saves work; nothing is right only because of it."""

    def __init__(self, client: StoreClient, key: str, name: str, *, lease_ms: int) -> None:
        self._client = client
        self._key = key
        self._name = name
        self._lease_ms = lease_ms

    async def take(self) -> bool:
        """Take or keep the turn; false where it is another's. Raises: StoreUnavailable."""
        return bool(await _TAKE.run(self._client, [self._key], [self._name, self._lease_ms]))

    async def leave(self) -> None:
        """Leave the turn to others. Raises: StoreUnavailable."""
        await _LEAVE.run(self._client, [self._key], [self._name])


async def now_ms(client: StoreClient) -> int:
    """Read the store's clock. Raises: StoreUnavailable."""
    seconds, micros = await client.execute_command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def used_bytes(client: StoreClient) -> int:
    """Return how much memory the primaries use together. Raises: StoreUnavailable."""
    clients = [client.at(node) for node in client.primaries] if isinstance(client, ClusterClient) else [client]
    told = [await each.execute_command("INFO", "memory") for each in clients]
    return sum(int(info["used_memory"]) for info in told)
