"""What a benchmark plays on: a server of its own, and processes whose CPU time and memory can be read."""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.partition import partition_of
from runstore.core.principal import Scope
from runstore.core.token import COMBINATIONS, hash_token, make_token
from runstore.engine import EngineConfig, EngineKind, start
from runstore.ports import TokenRecord

PROJECT: Final = "forecasts"
SHA: Final = "0123456789abcdef0123456789abcdef01234567"
_READY_S: Final = 30.0


class Process:
    """A program that was started and has printed one line of JSON, `ready`."""

    def __init__(self, child: "subprocess.Popen[bytes]", ready: dict[str, Any]) -> None:
        self._child = child
        self.ready = ready

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def url(self) -> str:
        """Where it answers, if it does."""
        return str(self.ready["url"])

    def cpu_s(self) -> float:
        """Return the CPU time that its threads have used."""
        return cpu_s(self.pid)

    def rss_kib(self) -> int:
        """Return the memory it holds."""
        return rss_kib(self.pid)

    def stop(self) -> None:
        """End it."""
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class Stage:
    """A server, and how much is to be measured: `scale` 1 is all of it."""

    def __init__(
        self, redis_url: str, folder: Path, *, rounds: int, scale: float, server: str, pid: int | None
    ) -> None:
        self.redis_url = redis_url
        self.folder = folder
        self.rounds = rounds
        self.scale = scale
        self.server = server
        self.server_pid = pid

    def some(self, count: int, least: int = 1) -> int:
        """Return how many to take where all would be `count`."""
        return max(least, round(count * self.scale))

    async def empty(self) -> None:
        """Empty the server."""
        async with connected(self.redis_url) as client:
            await client.flushall()

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RedisStore]:
        """Hold a new store in the emptied server."""
        await self.empty()
        async with RedisStore.open(self.redis_url) as opened:
            yield opened

    async def token(self, store: RedisStore) -> str:
        """Make a token that may do everything."""
        token = make_token(secrets.randbelow(COMBINATIONS))
        told = TokenRecord(
            name=f"bench-{uuid4()}",
            hash=hash_token(token),
            scopes=(Scope.ADMIN,),
            projects=None,
            created_at_s=int(time.time()),
        )
        await store.tokens.put(told)
        return token

    @contextmanager
    def process(self, *words: str, module: str = "runstore.cli") -> Iterator[Process]:
        """Hold a program of ours: a command of `runstore`, or a module."""
        with self.program(sys.executable, "-m", module, *words) as process:
            yield process

    @contextmanager
    def program(self, *words: str, cwd: Path | None = None) -> Iterator[Process]:
        """Hold any program that says in one line of JSON when it is ready."""
        child = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=cwd, env=self._environment())
        try:
            assert child.stdout is not None
            process = Process(child, msgspec.json.decode(_line(child)))
            yield process
        finally:
            Process(child, {}).stop()

    @contextmanager
    def gateway(self, *words: str) -> Iterator[Process]:
        """Hold a gateway."""
        with self.process("gateway", "--port", "0", "--redis-url", self.redis_url, "--json", *words) as process:
            yield process

    @contextmanager
    def projector(self, *words: str) -> Iterator[Process]:
        """Hold a projector."""
        with self.process("projector", "--redis-url", self.redis_url, "--json", *words) as process:
            yield process

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTORE_")}
        return {**kept, "XDG_STATE_HOME": str(self.folder)}


def _line(child: "subprocess.Popen[bytes]") -> bytes:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args!r} ended before it was ready")
    return line


@contextmanager
def opened(*, rounds: int, scale: float, redis_url: str | None = None) -> Iterator[Stage]:
    """Hold a stage, on a server of its own or on one that is given, which is emptied."""
    with tempfile.TemporaryDirectory(prefix="runstore-bench-") as name:
        folder = Path(name)
        kinds = (EngineKind.INSTALLED, EngineKind.WHEEL) if redis_url is None else (EngineKind.EXTERNAL,)
        engine = None
        for kind in kinds:
            try:
                engine = start(EngineConfig(data_dir=folder / "store", kind=kind, redis_url=redis_url))
                break
            except Exception:  # noqa: BLE001, S112 - the next kind, or the error below
                continue
        if engine is None:
            raise RuntimeError("no server can be started: install redis-server, or runstore[embedded]")
        with engine:
            server = asyncio.run(_version(engine.redis_url))
            yield Stage(engine.redis_url, folder, rounds=rounds, scale=scale, server=server, pid=engine.pid)


async def _version(url: str) -> str:
    async with connected(url) as client:
        told = await client.info("server")
    return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Hold a client of the server as anybody would make one."""
    from redis.asyncio import Redis

    client: Any = Redis.from_url(url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process's threads have used, as the scheduler counts it."""
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def rss_kib(pid: int) -> int:
    """Return the memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def new_id() -> RunId:
    """Make up a run id."""
    return RunId(str(uuid4()))


def event(run_id: RunId, status: str, **more: Any) -> bytes:
    """Write an event as any publisher would."""
    return msgspec.json.encode({"run_id": run_id, "status": status, "project_name": PROJECT, **more})


def story(run_id: RunId) -> tuple[bytes, bytes]:
    """Write the two events of a common run."""
    outputs = {"revenue": [100, 110, 121]}
    return (
        event(run_id, "running", at="2026-04-28T10:00:00+00:00", commit_sha=SHA),
        event(
            run_id,
            "success",
            at="2026-04-28T10:00:01.420000+00:00",
            output={"status": "success", "exit_code": 0, "stdout": "fitting\n", "stderr": "", "outputs": outputs},
        ),
    )


def stream(run_id: RunId, partitions: int = 16) -> str:
    """Name the stream of a run, as the docs tell it to publishers of any language."""
    return f"runstore:{{{partition_of(run_id, partitions)}}}:events"
