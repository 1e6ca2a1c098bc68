"""Builders, so that a test names only what it is about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
from yarl import URL

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.gateway import Gateway, GatewayConfig, JwtConfig
from runstore.gateway.jwt_config import JwtTiming
from runstore.ports import TokenRecord
from tests.waiting import happens

ADMIN = "an-admin-token-for-tests"
RUN_ID = RunId("66666666-6666-6666-6666-666666666666")


class MemoryServed:
    """Served projects in memory, and a worker that may hold runs."""

    def __init__(self) -> None:
        self.projects = {"forecasts", "secrets"}
        self.held: set[str] = set()
        self.asked: list[str] = []

    async def projects_served(self) -> frozenset[str]:
        return frozenset(self.projects)

    async def ask_cancel(self, run_id: RunId) -> bool:
        self.asked.append(run_id)
        return run_id in self.held


class CountedRuns:
    """The runs of a store, and how often they were asked for."""

    def __init__(self, runs: Any) -> None:
        self.asked = 0
        self._runs = runs
        self.has_archive = runs.has_archive

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        return getattr(self._runs, name)


class StandIn:
    """A real store, with what belongs to workers standing in."""

    def __init__(self, redis: RedisStore) -> None:
        self.redis = redis
        self.runs = CountedRuns(redis.runs)
        self.outputs, self.log, self.feed = redis.outputs, redis.log, redis.feed
        self.tokens, self.signing_keys = redis.tokens, redis.signing_keys
        self.served = MemoryServed()

    @property
    def logs(self) -> Any:
        return self.redis.logs

    async def ping(self) -> None:
        await self.redis.ping()

    async def dead_letters(self) -> int:
        return await self.redis.dead_letters()


class Reply(msgspec.Struct, frozen=True):
    """An answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["code"])


class Site:
    """A gateway, and those who call it."""

    def __init__(self, gateway: Gateway, store: StandIn, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.store = store
        self.session = session

    async def call(
        self, method: str, path: str, *, token: str | None = ADMIN, json: Any = None, **options: Any
    ) -> Reply:
        # of its own for each request unless told, and answers are compared byte for byte
        headers = {"X-Request-Id": "test", **options.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if json is not None:
            options["data"] = msgspec.json.encode(json)
        url = URL(self.gateway.url + path, encoded=True)
        async with self.session.request(method, url, headers=headers, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.call("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Reply:
        return await self.call("POST", path, json=json, **options)

    async def publish(self, run_id: str | None = None, *, status: str = "running", **event: Any) -> str:
        """Publish an event over HTTP and return the run's id once it is folded."""
        run_id = run_id or str(uuid4())
        token = event.pop("token", ADMIN)
        event.setdefault("project_name", "forecasts")
        reply = await self.post(f"/v1/runs/{run_id}/transitions", {"status": status, **event}, token=token)
        assert reply.status == 202, reply.body
        return run_id

    async def run(self, **body: Any) -> Any:
        """Ask for a run and return the answer's JSON."""
        reply = await self.post("/v1/runs", {"project_name": "forecasts", **body})
        assert reply.status in {200, 202}, reply.body
        return reply.json()

    async def token(
        self, *scopes: Scope, projects: tuple[str, ...] | None = None, expires_at_s: int | None = None
    ) -> str:
        """Store a token and return it."""
        text = f"token-{uuid4().hex}"
        await add_token(self.store, text, *scopes, projects=projects, expires_at_s=expires_at_s)
        return text


async def add_token(
    store: StandIn,
    text: str,
    *scopes: Scope,
    projects: tuple[str, ...] | None = None,
    expires_at_s: int | None = None,
) -> str:
    """Store a token under its own name."""
    await store.tokens.put(
        TokenRecord(
            name=text,
            hash=sha256(text.encode()).hexdigest(),
            scopes=scopes,
            projects=projects,
            created_at_s=0,
            expires_at_s=expires_at_s,
        )
    )
    return text


@asynccontextmanager
async def site_over(
    store: StandIn, *, jwt: JwtConfig | None = None, jwt_timing: JwtTiming | None = None, **config: Any
) -> AsyncIterator[Site]:
    """Start a gateway of its own over a store; its projector is the caller's."""
    await add_token(store, ADMIN, Scope.ADMIN)
    said = {"tokens_refresh_s": 0.05, "recheck_s": 0.05, "shutdown_s": 2.0, **config}
    gateway = Gateway(store, GatewayConfig(port=0, **said), jwt=jwt, jwt_timing=jwt_timing)
    await gateway.start()
    timeout = aiohttp.ClientTimeout(total=20)
    try:
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            yield Site(gateway, store, session)
    finally:
        await gateway.stop()


until = partial(happens, within_s=5.0)
"""Wait until a condition holds that comes within moments."""
