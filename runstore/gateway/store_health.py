"""`GET /v1/store`: how the store is, in numbers that anybody may see who may read runs, and which projects to look at.

It tells of no run and no project but those that the caller may read; the counts are of the whole store.
"""

import asyncio
import time
from typing import Final

import msgspec
from aiohttp import web

from runstore.core.errors import StoreUnavailable
from runstore.gateway.answers import respond_json
from runstore.gateway.context import SERVICES, Store, principal_of, services_of
from runstore.gateway.socket_streams import STREAMS
from runstore.wire.views import encode

_KEPT_S: Final = 5.0


class StoreHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the store is.

    `reason` says why it is not ready. `lag_s` is for how long the projector has not got to where the end of the log
    was, in the partition where that is longest, when the gateway looked last. Null: it cannot be told now.
    """

    is_ready: bool
    reason: str
    lag_s: float | None
    sockets: int
    dead_letters: int | None
    projects: tuple[str, ...]


class DeadLetters:
    """How many dead letters there are: counted once every few seconds, however many ask."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: int | None = None
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def count(self) -> int | None:
        """Count them; None where the store cannot be reached."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= _KEPT_S:
                try:
                    self._known = await self._store.dead_letters()
                except StoreUnavailable:
                    self._known = None
                self._asked_at = time.monotonic()
        return self._known


DEAD_LETTERS: Final = web.AppKey("dead_letters", DeadLetters)


def install_store_health(app: web.Application) -> None:
    """Give an app what the handler keeps.

    Needs: `SERVICES` in the app; called before it starts.
    """
    app[DEAD_LETTERS] = DeadLetters(app[SERVICES].store)


async def get_store(request: web.Request) -> web.StreamResponse:
    """Answer how the store is."""
    services = services_of(request)
    reason = services.readiness.reason
    try:
        projects = await services.served.served_to(principal_of(request))
    except StoreUnavailable:
        projects, reason = (), reason or "the store cannot be reached"
    answer = StoreHealth(
        is_ready=not reason,
        reason=reason,
        lag_s=services.readiness.lag_s,
        sockets=len(request.app[STREAMS]),
        dead_letters=await request.app[DEAD_LETTERS].count(),
        projects=projects,
    )
    return respond_json(encode(answer))
