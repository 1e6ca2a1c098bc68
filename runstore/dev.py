"""Everything on one machine, in one process: an engine, a projector with its reaper, a gateway, a worker.

One process starts and stops fastest, and there is nothing to keep alive beside it: whatever ends it, the engine's
watchdog and the shims of the runs see it go and end by themselves.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from runstore.adapters.counted import redis_numbers
from runstore.adapters.store import RedisStore
from runstore.admission import Admission, token_of
from runstore.archive.config import ArchiveConfig
from runstore.archive.numbers import numbers_of as of_archive
from runstore.archive.opening import archivers, open_archive, with_archive
from runstore.config import LogSettings, StoreSettings
from runstore.core.errors import RunstoreError
from runstore.endpoints import Claim, Endpoints, claim, find
from runstore.engine import Engine, EngineConfig, EngineKind, belongs, running
from runstore.engine import folder as data_folder
from runstore.gateway import Gateway, GatewayConfig, JwtConfig
from runstore.lifecycle import Service, ServiceEnded, started, until_any_ends
from runstore.metrics import MetricsServer, Numbers
from runstore.projection.numbers import census_of
from runstore.projection.numbers import numbers_of as of_projector
from runstore.projector import Projector, ProjectorConfig
from runstore.publish.numbers import spools_of
from runstore.reaper import Reaper, ReaperConfig
from runstore_worker.config import Project, WorkerConfig
from runstore_worker.sample import NAME as SAMPLE
from runstore_worker.sample import ensure_sample

_PROJECTS: Final = "projects"
WORKER_FOLDER: Final = "worker"
"""The worker's folder in the data folder."""

GRACE_S: Final = 2.0
"""How long a run may go on when everything is stopped, and again how long it may take to end. Unit: seconds."""


class DevConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is brought up, and where its data lies."""

    data_dir: Path
    """Folder for the data, the log and the token. Made with mode 0700 where it is missing."""

    store: StoreSettings = StoreSettings()
    """A store that somebody else runs, and how to open it. Without an address an engine of our own is started."""

    token: str | None = None
    """A fixed admin token. Unset: one is made at first start and kept in the data folder."""

    with_worker: bool = True
    """Whether runs are executed here."""

    projects: Mapping[str, Project] = {}
    """Projects to serve beside the sample; one named `forecasts` takes its place."""

    gateway: GatewayConfig = GatewayConfig()
    """The gateway's own settings."""

    jwt: JwtConfig | None = None
    """The issuer whose JWTs the gateway takes beside the store's own tokens. Unset: none."""

    projector: ProjectorConfig = ProjectorConfig()
    """The projector's own settings."""

    reaper: ReaperConfig = ReaperConfig()
    """The reaper's own settings."""

    log: LogSettings = LogSettings()
    """How the log file is written."""

    archive: ArchiveConfig = ArchiveConfig()
    """Where ended runs go. Unset: they stay."""

    worker: WorkerConfig | None = None
    """The worker's own settings, but for its projects. Unset: the defaults, with its folder in the data folder."""


class DevInUse(RunstoreError):
    """Another `dev` runs on the data folder."""


class Dev:
    """What was brought up."""

    def __init__(
        self,
        engine: Engine,
        endpoints: Endpoints,
        projects: tuple[str, ...],
        services: list[Service],
        *,
        metrics_url: str,
    ) -> None:
        self.engine = engine
        self.endpoints = endpoints
        self.projects = projects
        self.metrics_url = metrics_url
        """Where the numbers of all the parts are given without a token; empty: nowhere."""

        self._services = services

    @property
    def keeps_data(self) -> bool:
        """Whether the data is there again at the next start."""
        return self.engine.kind is not EngineKind.MEMORY

    async def wait(self) -> None:
        """Wait for as long as everything lives. Raises: what something died of; ServiceEnded."""
        await until_any_ends(*self._services)


@asynccontextmanager
async def bring_up(config: DevConfig) -> AsyncIterator[Dev]:
    """Hold everything for the length of an `async with`: entered once all of it is ready, left once all has gone.

    Raises: DevInUse; EngineError; StoreUnavailable; OSError where the address is taken; GitFailed, RepositoryError.
    """
    async with AsyncExitStack() as stack:
        ours = _claim(config.data_dir)
        stack.callback(ours.release)
        sample = asyncio.ensure_future(_projects(config))
        stack.push_async_callback(_settle, sample)
        engine = await stack.enter_async_context(
            running(EngineConfig(data_dir=config.data_dir, redis_url=_elsewhere(config)))
        )
        store = await stack.enter_async_context(RedisStore.open(engine.redis_url, **config.store.opening()))
        token = token_of(config.data_dir, config.token)
        archive = open_archive(config.archive.beside(config.data_dir))
        projector, reaper = Projector(store, config.projector, archive=archive), Reaper(store, config.reaper)
        numbers = Numbers()
        numbers.add(redis_numbers)
        numbers.add(of_projector(projector, reaper))
        moving = archivers(store, archive)
        numbers.add(of_archive(archive, moving))
        numbers.add_look(census_of(projector))
        services: list[Service] = [
            Admission(store, token, config.data_dir),
            projector,
            reaper,
            *moving,
        ]
        gateway = Gateway(with_archive(store, archive), config.gateway, jwt=config.jwt, numbers=numbers)
        for service in (*services, gateway):
            await stack.enter_async_context(started(service))
        services.append(gateway)
        projects = await sample
        if config.with_worker:
            from runstore_worker.numbers import numbers_of as of_worker
            from runstore_worker.worker import Worker

            worker = Worker(engine.redis_url, _of_worker(config, projects), publishing=config.store.publishing())
            await stack.enter_async_context(started(worker))
            services.append(worker)
            numbers.add(of_worker(worker))
            numbers.add_look(spools_of(engine.redis_url))
        endpoints = Endpoints(url=gateway.url, ws_url=gateway.ws_url, token=token, redis_url=engine.redis_url)
        ours.publish(endpoints)
        services.append(_Watched(engine, config.data_dir))
        metrics_url = f"{gateway.url}/metrics" if config.gateway.metrics_access == "open" else ""
        if config.gateway.metrics_port is not None:
            server = MetricsServer(numbers, config.gateway.metrics_host, config.gateway.metrics_port)
            await stack.enter_async_context(started(server))
            metrics_url = server.url
        yield Dev(engine, endpoints, tuple(sorted(projects)), services, metrics_url=metrics_url)


class _Watched:
    """An engine, seen as a service that others start and stop."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def wait(self) -> None:
        """Wait for as long as the engine lives. Raises: ServiceEnded."""
        await self._engine.until_ended()
        raise ServiceEnded(f"the server on the data folder {self._folder} has ended; its engine.log may say why")


def _claim(folder: Path) -> Claim:
    data_folder.make(folder)
    with data_folder.usable(folder):
        ours = claim(folder)
    if isinstance(ours, Claim):
        return ours
    running_here = find(folder)
    where = f" and answers at {running_here.url}" if running_here is not None else ""
    who = f"process {ours}" if ours else "another process"
    raise DevInUse(f"a runstore dev already runs on {folder} ({who}){where}; stop it, or give another --data-dir")


def _elsewhere(config: DevConfig) -> str | None:
    """Return the address of somebody else's server; one kept from an earlier start of ours means our own engine."""
    told = config.store.redis_url
    return None if told is None or belongs(config.data_dir, told) else told


async def _settle(task: "asyncio.Future[dict[str, Project]]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _sample_folder(config: DevConfig) -> Path:
    return config.data_dir.absolute() / _PROJECTS


async def _projects(config: DevConfig) -> dict[str, Project]:
    if not config.with_worker:
        return {}
    projects = dict(config.projects)
    if SAMPLE not in projects:
        place = await ensure_sample(_sample_folder(config))
        projects[SAMPLE] = Project(
            name=SAMPLE, folder=place.parent, repository=str(place), command=(sys.executable, "model.py")
        )
    return projects


def _of_worker(config: DevConfig, projects: Mapping[str, Project]) -> WorkerConfig:
    served = dict(projects)
    if config.worker is not None:
        return msgspec.structs.replace(config.worker, projects=served)
    return WorkerConfig(
        projects=served,
        data_dir=config.data_dir.absolute() / WORKER_FOLDER,
        grace_s=GRACE_S,
        kill_after_s=GRACE_S,
        last_words_s=GRACE_S,
    )
