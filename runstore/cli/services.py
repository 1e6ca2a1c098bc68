"""`runstore gateway`, `projector` and `worker`: the long-lived parts, any number of each over one store."""

import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from runstore.cli import journal
from runstore.cli.auth import read_jwt
from runstore.cli.exits import Exit, Trouble
from runstore.cli.numbers import Telling, given_out, telling
from runstore.cli.patience import began, when_there
from runstore.cli.screen import out
from runstore.cli.several import check_processes, reserve_port, serve_several, until_let_go
from runstore.cli.signals import run_until_asked
from runstore.cli.supervisor import hold_alive, stopping, tell, watched
from runstore.cli.target import Config, DataDir, RedisUrl, find_store
from runstore.config import ARCHIVE, JWT, LogSettings, Settings, StoreSettings
from runstore.endpoints import DATA_DIR, find
from runstore.engine import folder as data_folder
from runstore.lifecycle import Service, started, until_any_ends

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore
    from runstore.gateway import GatewayConfig
    from runstore.metrics import MetricsServer

_Processes = Annotated[int, Parameter(help="Processes that share the work on this machine.")]
_Tell = Callable[[dict[str, Any]], None]
_Work = Callable[[_Tell, int], Coroutine[Any, Any, None]]
_NEW_OBJECTS: Final = 20_000
_Level = Annotated[
    journal.Level | None,
    Parameter(
        help="What is logged to stderr: events of this level and above it [RUNSTORE_LOG_LEVEL]; warning unless told."
    ),
]
_Format = Annotated[
    journal.Format | None,
    Parameter(help="How it is logged: a line for people, or one of JSON [RUNSTORE_LOG_FORMAT]; console unless told."),
]
_MetricsPort = Annotated[
    int | None, Parameter(help="Port that gives numbers to Prometheus, 0 for a free one; none unless told.")
]
_MetricsHost = Annotated[str | None, Parameter(help="Address of that port; 127.0.0.1 unless told.")]
_Json = Annotated[bool, Parameter(name="--json", help="Print one line of JSON once ready, and nothing else.")]


def gateway(
    *,
    host: Annotated[
        str | None, Parameter(help="Address to listen on [RUNSTORE_GATEWAY_HOST]; 127.0.0.1 unless told.")
    ] = None,
    port: Annotated[
        int | None, Parameter(help="Port, 0 for a free one [RUNSTORE_GATEWAY_PORT]; 8080 unless told.")
    ] = None,
    processes: _Processes = 1,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    json: _Json = False,
    config: Config = None,
    metrics_port: _MetricsPort = None,
    metrics_host: _MetricsHost = None,
    log_level: _Level = None,
    log_format: _Format = None,
) -> int:
    """Serve HTTP and websockets until SIGTERM or Ctrl-C; a second signal ends it at once."""
    from runstore.archive.config import ArchiveConfig
    from runstore.archive.opening import open_archive, with_archive
    from runstore.gateway import Gateway, GatewayConfig, JwtConfig

    settings = Settings.load(os.environ, config)
    settings.check_variables({"gateway": GatewayConfig, JWT: JwtConfig, ARCHIVE: ArchiveConfig})
    jwt = read_jwt(settings)
    flags = {"host": host, "port": check_port(port), "metrics_port": metrics_port, "metrics_host": metrics_host}
    archiving = settings.record(ARCHIVE, ArchiveConfig).beside(data_dir)
    record = settings.record("gateway", GatewayConfig, flags)
    log = _log_settings(settings, log_level, log_format)
    store = find_store(redis_url, data_dir, settings)
    address = f"{record.host}:{record.port}"

    def ready(told: dict[str, Any]) -> None:
        _ready(json, "gateway", told, f"{told['url']}")

    def work_of(record: "GatewayConfig", told: Telling) -> _Work:
        async def work(tell: _Tell, seat: int) -> None:
            async with (
                given_out(told, seat) as (numbers, server),
                _opened(store) as opened,
                began(
                    lambda: Gateway(with_archive(opened, open_archive(archiving)), record, jwt=jwt, numbers=numbers)
                ) as service,
            ):
                tell({"url": service.url, "ws_url": service.ws_url, **_begun(server)})
                await until_any_ends(service)

        return work

    with telling(record.metrics_host, record.metrics_port, check_processes(processes)) as told:
        if processes == 1:
            return _serve(lambda: work_of(record, told)(ready, 0), log, address)
        try:
            reserved = reserve_port(record.host, record.port)
        except OSError as error:
            raise explain_address(error, address) from None
        with reserved:
            shared = msgspec.structs.replace(record, port=reserved.getsockname()[1], reuse_port=True)
            return _serve_several(processes, work_of(shared, told), ready, log, address)


def projector(
    *,
    processes: _Processes = 1,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    json: _Json = False,
    config: Config = None,
    metrics_port: _MetricsPort = None,
    metrics_host: _MetricsHost = None,
    log_level: _Level = None,
    log_format: _Format = None,
) -> int:
    """Fold events into runs, and end the runs whose worker or time is gone, until SIGTERM or Ctrl-C."""
    from runstore.archive.config import ArchiveConfig
    from runstore.archive.numbers import numbers_of as of_archive
    from runstore.archive.opening import archivers, open_archive
    from runstore.loading import Loading
    from runstore.projection.numbers import census_of, numbers_of
    from runstore.projector import Projector, ProjectorConfig
    from runstore.reaper import Reaper, ReaperConfig

    settings = Settings.load(os.environ, config)
    settings.check_variables({"projector": ProjectorConfig, "reaper": ReaperConfig, ARCHIVE: ArchiveConfig})
    flags = {"metrics_port": metrics_port, "metrics_host": metrics_host}
    projecting, reaping = settings.record("projector", ProjectorConfig, flags), settings.record("reaper", ReaperConfig)
    archiving = settings.record(ARCHIVE, ArchiveConfig).beside(data_dir)
    log = _log_settings(settings, log_level, log_format)
    store = find_store(redis_url, data_dir, settings)

    def ready(shown: dict[str, Any]) -> None:
        _ready(json, "projector", _pid() | shown, f"process {os.getpid()}")

    with telling(projecting.metrics_host, projecting.metrics_port, check_processes(processes)) as told:

        async def work(tell: _Tell, seat: int) -> None:
            async with given_out(told, seat) as (numbers, server), _opened(store) as opened:
                reaper, archive = Reaper(opened, reaping), open_archive(archiving)
                moving = archivers(opened, archive)
                others: list[Service] = [reaper, *moving]
                async with AsyncExitStack() as stack:
                    loading = await stack.enter_async_context(began(lambda: Loading(opened)))
                    folding = await stack.enter_async_context(
                        began(lambda: Projector(opened, projecting, archive=archive))
                    )
                    for service in others:
                        await stack.enter_async_context(started(service))
                    numbers.add(numbers_of(folding, reaper))
                    numbers.add(of_archive(archive, moving))
                    numbers.add_look(census_of(folding))
                    tell(_begun(server))
                    await until_any_ends(loading, folding, *others)

        if processes == 1:
            return _serve(lambda: work(ready, 0), log)
        return _serve_several(processes, work, ready, log)


def worker(
    *,
    redis_url: RedisUrl = None,
    data_dir: Annotated[
        Path | None,
        Parameter(help="Folder for repositories and work, .runstore unless told; a dev running there is the store."),
    ] = None,
    concurrency: Annotated[
        int | None, Parameter(help="Runs at once [RUNSTORE_WORKER_CONCURRENCY]; 2 unless told.")
    ] = None,
    json: _Json = False,
    config: Config = None,
    metrics_port: _MetricsPort = None,
    metrics_host: _MetricsHost = None,
    log_level: _Level = None,
    log_format: _Format = None,
) -> int:
    """Execute runs of the projects that runstore.toml names, until SIGTERM or Ctrl-C; then let what runs end."""
    from runstore.publish.numbers import spools_of
    from runstore_worker.config import ConfigError, WorkerConfig, parse_projects
    from runstore_worker.environment import hide_from_models
    from runstore_worker.numbers import numbers_of
    from runstore_worker.worker import Worker

    settings = Settings.load(os.environ, config)
    settings.check_variables({"worker": WorkerConfig})
    try:
        projects = parse_projects(settings.data, settings.path)
    except ConfigError as error:
        raise Trouble(str(error)) from None
    if not projects:
        raise Trouble(f"a worker needs a project: write a table [projects.NAME] into {settings.path}")
    folder = (data_dir or DATA_DIR).absolute()
    record = settings.record(
        "worker",
        WorkerConfig,
        {
            "concurrency": concurrency,
            "data_dir": folder / "worker" if data_dir is not None else None,
            "metrics_port": metrics_port,
            "metrics_host": metrics_host,
        },
        defaults={"data_dir": folder / "worker"},
        fixed={"projects": projects},
    )
    log = _log_settings(settings, log_level, log_format)
    store = find_store(redis_url, data_dir if data_dir is not None and find(data_dir) else None, settings)
    hide_from_models()

    async def work() -> None:
        data_folder.make(folder)
        with telling(record.metrics_host, record.metrics_port, 1) as told:
            async with (
                given_out(told, 0) as (numbers, server),
                began(lambda: Worker(store.redis_url or "", record, publishing=store.publishing())) as service,
            ):
                numbers.add(numbers_of(service))
                numbers.add_look(spools_of(store.redis_url or ""))
                shown = _pid() | {"projects": sorted(projects)} | _begun(server)
                _ready(json, "worker", shown, f"serves {', '.join(sorted(projects))}")
                await until_any_ends(service)

    return _serve(work, log)


def check_port(port: int | None) -> int | None:
    """Return a port if it can be one. Raises: Trouble."""
    if port is not None and not 0 <= port <= 65535:
        raise Trouble(f"--port {port}: a port is a number from 0 (any free one) to 65535")
    return port


def explain_address(error: OSError, address: str) -> Trouble:
    """Say why an address cannot be listened on."""
    import errno

    if error.errno == errno.EADDRINUSE:
        return Trouble(f"{address} is taken by another program: give another --port, or --port 0 for any free one")
    return Trouble(f"cannot listen on {address}: {error.strerror or error}")


def _serve(work: Callable[[], Coroutine[Any, Any, int | None]], log: LogSettings, address: str = "its address") -> int:
    journal.to_stderr(log)
    try:
        returned, asked = run_until_asked(watched(work), stopping)
    except BrokenPipeError:
        raise  # our own reader has left, which says nothing about an address
    except OSError as error:
        raise explain_address(error, address) from None
    return Exit.SUCCESS if asked in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} else (returned or Exit.SUCCESS)


def _serve_several(processes: int, work: _Work, ready: _Tell, log: LogSettings, address: str = "its address") -> int:
    hold_alive()

    def serve(tell: Callable[[bytes], None], life: int, seat: int) -> int:
        def told(shown: dict[str, Any]) -> None:
            _settle()
            tell(msgspec.json.encode(shown))

        return _serve(lambda: until_let_go(life, work(told, seat)), log, address)

    return serve_several(processes, serve, lambda told: ready(msgspec.json.decode(told)))


@asynccontextmanager
async def _opened(store: StoreSettings) -> "AsyncIterator[RedisStore]":
    from runstore.adapters.store import RedisStore

    opened = await when_there(lambda: RedisStore.connect(store.redis_url or "", **store.opening()))
    try:
        yield opened
    finally:
        await opened.aclose()


def _ready(json: bool, role: str, shown: dict[str, Any], where: str) -> None:
    _settle()
    tell(f"READY=1\nSTATUS={where}")
    if json:
        out().json(msgspec.json.encode(shown))
    else:
        out().line((f"{role} ready: ", "green"), where)
        if "metrics_url" in shown:
            out().line(f"metrics: {shown['metrics_url']}")


def _settle() -> None:
    """Let no garbage collection walk over what was imported and made so far, and none come after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)


def _begun(server: "MetricsServer | None") -> dict[str, Any]:
    """Let the port for numbers say that the service has begun, and say where that port is."""
    if server is None:
        return {}
    server.tell_ready()
    return {"metrics_url": server.url}


def _log_settings(settings: Settings, level: journal.Level | None, form: journal.Format | None) -> LogSettings:
    return settings.record("log", LogSettings, {"level": level, "format": form})


def _pid() -> dict[str, Any]:
    return {"ready": True, "pid": os.getpid()}
