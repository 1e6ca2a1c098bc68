"""What is attacked: a real server, projector, gateway and worker, each a process of its own with a log of its own."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

from runstore import AsyncClient
from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.core.token import COMBINATIONS, make_token
from runstore.engine import EngineConfig, start
from runstore.gateway import GatewayConfig
from runstore.ports import TokenRecord
from tests.attack import projects
from tests.attack.watched import Watched
from tests.cli.processes import Started, started
from tests.gateway.issuer import AUDIENCE, PROJECTS, Issuer, an_ec_key, issuing
from tests.waiting import happens

HEALTHY, ATTACKED, SECRET = "healthy", "attacked", "secrets"
WITHIN_S = 60.0

GATEWAY = {
    # Shorter times, so that what hangs is cut within a run; small caches, so that what is kept cannot hide a leak; more
    # patience with the store and the projector, which a slow machine needs and which would be told as 503.
    "RUNSTORE_GATEWAY_FOLD_WAIT_S": "30",
    "RUNSTORE_GATEWAY_STORE_TIMEOUT_S": "30",
    "RUNSTORE_TIMEOUT_S": "30",
    "RUNSTORE_GATEWAY_HEAD_TIMEOUT_S": "5",
    "RUNSTORE_GATEWAY_BODY_IDLE_S": "3",
    "RUNSTORE_GATEWAY_BODY_TIMEOUT_S": "20",
    "RUNSTORE_GATEWAY_KEEPALIVE_S": "5",
    "RUNSTORE_GATEWAY_WRITE_STALL_S": "5",
    "RUNSTORE_GATEWAY_MAX_WAIT_S": "1",
    "RUNSTORE_GATEWAY_CACHE_BYTES": str(4 * 1024 * 1024),
}
PROJECTOR = {"RUNSTORE_PROJECTOR_HEADS": "100"}
UNLIMITED = {
    # Limits by token or address would hide what lies behind them. Those that this gateway has are set out of the way.
    "requests_per_s": "0",
    "stranger_requests_per_s": "0",
    "connections_per_address": "0",
    "connections_per_token": "0",
}


def unlimited() -> dict[str, str]:
    """Return the variables that take the gateway's limits of rate out of the way, as far as it has any."""
    known = GatewayConfig.__struct_fields__
    return {f"RUNSTORE_GATEWAY_{name.upper()}": value for name, value in UNLIMITED.items() if name in known}


@dataclass
class Site:
    """What an attack is given."""

    folder: Path
    redis_url: str
    store: RedisStore
    issuer: Issuer
    gateway: Started
    worker: Started | None
    processes: list[Watched]
    projects: projects.Projects
    open_files: int
    secret: str
    tokens: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    pools: dict[tuple[str, int], list[Any]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def admin(self) -> str:
        return self.tokens["admin"]

    def pooled(self, name: str, size: int, make: Callable[[int], list[Any]]) -> list[Any]:
        """Return what was made once, so many examples: Hypothesis takes its time."""
        if (name, size) not in self.pools:
            self.pools[name, size] = make(size)
        return self.pools[name, size]

    def process(self, name: str) -> Watched:
        return next(process for process in self.processes if process.name == name)

    def client(self, token: str | None = None) -> AsyncClient:
        return AsyncClient(self.url, token=token or self.admin)

    async def ask(self, method: str, path: str, token: str | None = None, body: Any = None) -> tuple[int, bytes]:
        """Ask as a client of good will does."""
        headers = {"Authorization": f"Bearer {token or self.admin}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as http,
            http.request(method, self.url + path, json=body) as answer,
        ):
            return answer.status, await answer.read()

    async def _is_let_in(self) -> bool:
        return (await self.ask("GET", "/v1/openapi.json"))[0] == 200

    async def healthy(self) -> str | None:
        """Run a healthy run from submit to push; what went wrong, else None."""
        said = os.urandom(8).hex()
        try:
            async with asyncio.timeout(WITHIN_S), self.client() as client:
                if self.worker is None:
                    return await self._healthy_without_worker(client, said)
                run = await client.run(HEALTHY, inputs={"said": said})
                run = await client.wait(run.run_id, timeout_s=WITHIN_S)
                if run.status != "success" or run.output is None or run.output.outputs != {"said": said}:
                    return f"a healthy run ended as {run.status}: {run.error_message}"
        except Exception as error:
            return f"a healthy run did not go through: {error!r}"
        return None

    async def _healthy_without_worker(self, client: AsyncClient, said: str) -> str | None:
        run_id = str(UUID(bytes=os.urandom(16)))
        event = {"status": "success", "project_name": HEALTHY, "output": {"outputs": {"said": said}}}
        status, _ = await self.ask("POST", f"/v1/runs/{run_id}/transitions", body=event)
        run = await client.wait(run_id, timeout_s=WITHIN_S)
        told = run.output.outputs if run.output is not None else None
        return (
            None if (status, told) == (202, {"said": said}) else f"a published run was answered with {status}, {told}"
        )

    async def prepare(self, random: Random) -> None:
        """Make the tokens and the runs that attacks name."""
        scopes = {
            "admin": ((Scope.ADMIN,), None),
            "bound": ((Scope.READ, Scope.WRITE, Scope.PUBLISH), (ATTACKED, HEALTHY)),
            "reader": ((Scope.READ,), (ATTACKED,)),
            "nobody": ((Scope.READ, Scope.WRITE, Scope.PUBLISH), ("nothing",)),
        }
        for name, (held, bound_to) in scopes.items():
            self.tokens[name] = make_token(random.randrange(COMBINATIONS))
            await self.store.tokens.put(
                TokenRecord(
                    name=name,
                    hash=sha256(self.tokens[name].encode()).hexdigest(),
                    scopes=held,
                    projects=bound_to,
                    created_at_s=0,
                    expires_at_s=None,
                )
            )
        await self.store.served.register([ATTACKED, HEALTHY])
        await happens(self._is_let_in, within_s=WITHIN_S)
        self.document = msgspec.json.decode((await self.ask("GET", "/v1/openapi.json"))[1])
        for number in range(24):
            project = SECRET if number % 4 == 3 else ATTACKED
            run_id = str(UUID(int=random.getrandbits(128), version=4))
            status = ("success", "running", "failed")[number % 3]
            text = self.secret if project == SECRET else f"said {number} é\n" * (number + 1)
            event = {"status": status, "project_name": project, "commit_sha": "abc1234", "tags": [f"t{number % 3}"]}
            if project == SECRET:
                event["tags"].append(self.secret)
            if status != "running":
                event["output"] = {"stdout": text, "stderr": text, "outputs": {"revenue": [1, 2], "a/b": text}}
            told, body = await self.ask("POST", f"/v1/runs/{run_id}/transitions", body=event)
            assert told == 202, body
            (self.hidden if project == SECRET else self.known).append(run_id)


@asynccontextmanager
async def sited(
    folder: Path, *, seed: int, with_worker: bool = True, broken_by: Mapping[str, str] | None = None
) -> AsyncIterator[Site]:
    """Hold everything that is attacked. `broken_by` says how a role is to be broken: see `tests.attack.broken`."""
    open_files = _open_as_many_files_as_we_may()
    made = projects.make(folder / "projects") if with_worker else projects.Projects(folder / "projects", {}, [])
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(issuing())
        issuer.keys["ec"] = an_ec_key("ec")
        engine = stack.enter_context(await asyncio.to_thread(start, EngineConfig(data_dir=folder / "data")))
        jwt = {
            "RUNSTORE_AUTH_JWT_ISSUER": issuer.issuer,
            "RUNSTORE_AUTH_JWT_AUDIENCE": AUDIENCE,
            "RUNSTORE_AUTH_JWT_PROJECTS_CLAIM": PROJECTS,
        }
        roles: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
            "projector": (("projector",), PROJECTOR),
            "gateway": (("gateway", "--port", "0"), {**GATEWAY, **unlimited(), **jwt}),
        }
        if with_worker:
            config = ("--config", str(made.settings), "--concurrency", "4")
            roles["worker"] = (("worker", *config, "--data-dir", str(folder / "worker" / "data")), {})
        services: dict[str, Started] = {}
        processes = [] if engine.pid is None else [Watched("server", engine.pid)]
        for role, (words, told) in roles.items():
            place = folder / role
            place.mkdir()
            how = (broken_by or {}).get(role)
            module = "tests.attack.broken" if how else "runstore.cli"
            settings = {**told, "BROKEN_BY": how} if how else told
            context = started(*words, "--redis-url", engine.redis_url, folder=place, module=module, **settings)
            service = await asyncio.to_thread(stack.enter_context, context)
            services[role] = service
            processes.append(Watched(role, service.process.pid, place / "stderr.txt"))
        random = Random(f"{seed}:site")
        site = Site(
            folder=folder,
            redis_url=engine.redis_url,
            store=await stack.enter_async_context(RedisStore.open(engine.redis_url)),
            issuer=issuer,
            gateway=services["gateway"],
            worker=services.get("worker"),
            processes=processes,
            projects=made,
            open_files=open_files,
            secret=f"SECRET-{random.getrandbits(128):032x}",
        )
        await site.prepare(random)
        yield site


def _open_as_many_files_as_we_may() -> int:
    assert sys.platform == "linux", "an attack needs Linux: it looks at processes in /proc"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
