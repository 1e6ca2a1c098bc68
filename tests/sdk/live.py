"""A whole store in the test's own loop: a real server, a projector, and a gateway that can be killed and restarted."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.gateway import Gateway, GatewayConfig
from runstore.ports import TokenRecord
from runstore.projector import Projector
from runstore.wire.keys import PROJECTS_SERVED


class Live:
    """What runs, and how to reach it."""

    def __init__(self, redis_url: str, store: RedisStore) -> None:
        self.redis_url = redis_url
        self.store = store
        self.token = "rst_" + secrets.token_hex(18)
        self.gateway = Gateway(store, GatewayConfig(port=0, shutdown_s=1.0))
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start_gateway(self) -> None:
        self.gateway = Gateway(self.store, GatewayConfig(port=self.port, shutdown_s=1.0))
        await self.gateway.start()
        self.port = int(self.gateway.url.rsplit(":", 1)[1])

    async def stop_gateway(self) -> None:
        await self.gateway.stop()


@asynccontextmanager
async def live(redis_url: str) -> AsyncIterator[Live]:
    async with RedisStore.open(redis_url) as store:
        running = Live(redis_url, store)
        await store.tokens.put(
            TokenRecord(
                name="test",
                hash=sha256(running.token.encode()).hexdigest(),
                scopes=(Scope.ADMIN,),
                projects=None,
                created_at_s=0,
            )
        )
        await store.client.execute_command("ZADD", PROJECTS_SERVED, int(time.time() * 1000), "forecasts")
        projector = Projector(store)
        await projector.start()
        try:
            await running.start_gateway()
            yield running
        finally:
            await running.stop_gateway()
            await projector.stop()
