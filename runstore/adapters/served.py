"""Which projects workers serve, by when they last said so; and asking the holder of a run to cancel it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from runstore.adapters.connection import Script
from runstore.adapters.dispatch import RedisDispatch
from runstore.core.ids import RunId
from runstore.wire.keys import PROJECTS_SERVED

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

SERVED_MS: Final = 7 * 24 * 3600 * 1000
_REGISTER: Final = Script("""
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
for i = 1, #ARGV do redis.call('ZADD', KEYS[1], now, ARGV[i]) end
return #ARGV
""")
_SERVED: Final = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now - tonumber(ARGV[1])), '+inf')
""")
SHARED: Final = (_REGISTER, _SERVED)
"""What those run who may send no scripts."""


class RedisServed:
    """What workers serve, over Redis."""

    def __init__(self, store: "RedisStore") -> None:
        self._client = store.client
        self._dispatch = RedisDispatch(store)

    async def register(self, projects: Iterable[str]) -> None:
        """Say that a worker serves projects, now. Raises: StoreUnavailable."""
        names = sorted(set(projects))
        if names:
            await _REGISTER.run(self._client, [PROJECTS_SERVED], names)

    async def projects_served(self) -> frozenset[str]:
        """Return the projects that a worker registered within the last seven days. Raises: StoreUnavailable."""
        names = await _SERVED.run(self._client, [PROJECTS_SERVED], [SERVED_MS])
        return frozenset(name.decode() for name in names)

    async def ask_cancel(self, run_id: RunId) -> bool:
        """Ask the worker that holds the run to cancel it; false where none does. Raises: StoreUnavailable."""
        return await self._dispatch.ask_cancel(run_id)
