"""The site of a chaos run: a real server and real processes around it, each with a proxy of its own to Redis."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.ports import TokenRecord
from tests.chaos.observing import MODEL
from tests.chaos.plan import NETWORK, OF_MACHINES, OF_REDIS, Kind
from tests.chaos.power import Power, build_shim
from tests.chaos.processes import ROOT, Role
from tests.chaos.proxy import Proxy
from tests.chaos.server import Server, free_port
from tests.chaos.several import Several

_TUNED: Final = {
    "RUNSTORE_PROJECTOR_LOG_RETENTION": "100000000",  # the checker folds all of it
    "RUNSTORE_PROJECTOR_LEASE_MS": "2000",
    "RUNSTORE_REAPER_LEASE_MS": "4000",
    "RUNSTORE_REAPER_EVERY_MS": "500",
    "RUNSTORE_WORKER_LEASE_MS": "4000",
    "RUNSTORE_WORKER_KILL_AFTER_S": "1",
    "RUNSTORE_WORKER_GRACE_S": "20",
}


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How large a site is, and what it is told."""

    seed: int
    topology: str = "single"
    """`single`, `sentinel` or `cluster`. Only with one server do its power, clock, disk and memory go wrong, and the
    network between it and the rest."""
    fsync: str = "always"
    durability: str = "acknowledged"
    min_replicas: int = 1
    projectors: int = 2
    gateways: int = 2
    publishers: int = 2
    workers: int = 1
    subscribers: int = 200
    rate: float = 300.0
    """Events a second that each publisher tells at most."""
    width: int = 24
    """Runs that each publisher tells of at the same time: what it has on its way to Redis at once."""
    patience_s: float = 60.0
    """How long a subscriber is waited for after the last event. The checker tells what it had not heard by then."""
    mutations: Mapping[str, str] = {}
    """Defects put into `projector` or `gateway`."""


class Site:
    """What runs. Used from one event loop, in the main thread: its processes die with whoever starts them."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.shape = shape
        self.history = folder / "history"
        self.token = "rst_" + secrets.token_hex(18)
        self.shim = build_shim(folder)
        self.redis_disk, self.spool_disk = folder / "redis" / "data", folder / "spool"
        self.spool_disk.mkdir()
        self.machine = Power(self.shim, folder / "redis" / "power", self.redis_disk)
        self.spool_machine = Power(self.shim, folder / "spool-power", self.spool_disk)
        self.server: Server | Several
        if shape.topology == "single":
            self.server = Server(self.redis_disk, self.machine, fsync=shape.fsync)
        else:
            self.server = Several(self.redis_disk, shape.topology, shape.seed)
        self.proxies: dict[str, Proxy] = {}
        self.roles: dict[str, Role] = {}
        self.observer: Role | None = None
        self.partitions = 0

    @property
    def publishers(self) -> list[str]:
        return [f"publisher-{n}" for n in range(self.shape.publishers)]

    @property
    def can_befall(self) -> dict[Kind, list[str]]:
        """Which roles each kind of fault can befall."""
        everybody = [*self.roles, "redis"]
        found = {kind: list(self.proxies) for kind in NETWORK}
        found |= dict.fromkeys((Kind.KILL, Kind.FREEZE), everybody)
        if self.shape.topology == "single":
            found |= {kind: ["redis"] for kind in OF_REDIS | {Kind.DISK_FULL}}
        else:
            found[Kind.FAIL_OVER] = ["redis"]
        found[Kind.SPOOL_POWER] = self.publishers
        return {kind: roles for kind, roles in found.items() if self.shim or kind not in OF_MACHINES}

    async def start(self) -> None:
        """Start everything, and return when it is ready."""
        self.server.start()  # in this thread, with which it ends
        await asyncio.to_thread(self.server.ready)
        async with RedisStore.open(self.server.url) as store:
            digest = sha256(self.token.encode()).hexdigest()
            record = TokenRecord(name="chaos", hash=digest, scopes=(Scope.ADMIN,), projects=None, created_at_s=0)
            await store.tokens.put(record)
            self.partitions = store.meta.partitions
        ports = [free_port() for _ in range(self.shape.gateways)]
        front = self.proxies["front"] = Proxy(ports)
        await front.start()
        self.url = f"http://127.0.0.1:{front.port}"
        for number in range(self.shape.projectors):
            await self._command("projector", number)
        for number, port in enumerate(ports):
            await self._command("gateway", number, "--port", str(port))
        if self.shape.workers:
            self._make_model()
        for number in range(self.shape.workers):
            await self._command("worker", number, "--concurrency", "2")
        for name in self.publishers:
            await self._add_publisher(name)
        for role in self.roles.values():
            role.start()
        for role in self.roles.values():
            await asyncio.to_thread(role.ready)

    def start_observer(self) -> None:
        """Start those who subscribe, look up, list and submit."""
        words = ["-m", "tests.chaos.observing", "--name", "observer", "--url", self.url, "--token", self.token]
        words += ["--history", str(self.history), "--publishers", ",".join(self.publishers)]
        words += ["--seed", str(self.shape.seed), "--subscribers", str(self.shape.subscribers)]
        words += ["--submitters", str(8 * bool(self.shape.workers)), "--partitions", str(self.partitions)]
        words += ["--patience", str(self.shape.patience_s)]
        self.observer = Role("observer", words, env={}, folder=self.folder)
        self.observer.start()
        self.observer.ready()

    def again(self, name: str) -> None:
        """Start a role again that was killed."""
        if name == "redis":
            self.server.start()
        else:
            self.roles[name].start()

    def signal(self, name: str, number: int) -> None:
        self.server.signal(number) if name == "redis" else self.roles[name].signal(number)

    def kill(self, name: str) -> None:
        self.server.kill() if name == "redis" else self.roles[name].kill()

    async def mend(self) -> None:
        """Let doctor put logs right that hold ids from the future, and send what was left in spools."""
        words = [sys.executable, "-m", "runstore.cli", "doctor", "--mend", "--redis-url", self.server.url]
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=ROOT,
            env={**environment(), "RUNSTORE_SPOOL_DIR": str(self.spool_disk)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await process.wait()

    def stop(self) -> dict[str, int]:
        """Ask everything but the server to end, and return the exit codes."""
        codes = {}
        order = ("worker", "gateway", "projector")
        for name in sorted(self.roles, key=lambda name: order.index(name.split("-")[0]) if name[0] != "p" else 9):
            if self.roles[name].pid is not None:
                codes[name] = self.roles[name].stop()
        return codes

    async def aclose(self) -> None:
        """End whatever is left."""
        for role in [*self.roles.values(), *([self.observer] if self.observer else [])]:
            with suppress(ProcessLookupError):
                role.signal(signal.SIGCONT)
                role.kill()
        for proxy in self.proxies.values():
            await proxy.stop()
        self.server.close()

    async def _command(self, kind: str, number: int, *words: str) -> None:
        name = f"{kind}-{number}"
        url = await self._proxied(name)
        argv = ("-m", "tests.chaos.role", self.shape.mutations.get(kind, "sound"), kind, "--redis-url", url, "--json")
        env = {**_TUNED, "RUNSTORE_DURABILITY": self.shape.durability, "RUNSTORE_SPOOL_DIR": str(self.spool_disk)}
        env["RUNSTORE_MIN_REPLICAS"] = str(self.shape.min_replicas)
        data = ("--data-dir", str(self.folder / name)) if kind == "worker" else ()
        config = ("--config", str(self.folder / "runstore.toml")) if kind == "worker" else ()
        self.roles[name] = Role(name, (*argv, *words, *data, *config), env=env, folder=self.folder)

    async def _add_publisher(self, name: str) -> None:
        words = ["-m", "tests.chaos.publishing", "--name", name, "--redis-url", await self._proxied(name)]
        words += ["--url", self.url, "--token", self.token, "--history", str(self.history)]
        words += ["--spool", str(self.spool_disk), "--durability", self.shape.durability]
        words += ["--min-replicas", str(self.shape.min_replicas)]
        words += ["--seed", str(self.shape.seed), "--rate", str(self.shape.rate), "--width", str(self.shape.width)]
        self.roles[name] = Role(name, words, env=self.spool_machine.env, folder=self.folder)

    async def _proxied(self, name: str) -> str:
        if isinstance(self.server, Several):
            return self.server.url  # which servers there are they tell by themselves
        proxy = self.proxies[name] = Proxy([self.server.port])
        await proxy.start()
        return f"redis://:{self.server.password}@127.0.0.1:{proxy.port}/0"

    def _make_model(self) -> None:
        place = self.folder / "model"
        place.mkdir()
        (place / "model.sh").write_text('echo "{\\"n\\": 1}" > "$RUNSTORE_OUTPUTS"\n')
        who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
            subprocess.run(["git", *words], cwd=place, env={**environment(), **who}, check=True)
        (self.folder / "runstore.toml").write_text(
            f'[projects.{MODEL}]\nrepository = "{place}"\ncommand = ["sh", "model.sh"]\nattempts = 50\ntimeout_s = 60\n'
        )


def environment() -> dict[str, str]:
    """Return our environment without settings of the product."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUNSTORE_")}


def processes_of(site: Site) -> Iterator[int]:
    """Yield processes that name the site's folder and live, but for the server, and those that we come from."""
    known = {site.server.pid, *_ancestors(os.getpid())}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) not in known:
            with suppress(OSError):
                if str(site.folder).encode() in (place / "cmdline").read_bytes():
                    yield int(place.name)


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
