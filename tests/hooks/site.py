"""A whole site for a hook: a broker, a run store with projector and reaper, and worker processes of a framework."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import redis.asyncio

from runstore.adapters.store import RedisStore
from runstore.core.errors import InvalidRunId, StoreUnavailable
from runstore.core.ids import RunId, derive_run_id, parse_run_id
from runstore.core.principal import Scope
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.engine import Engine, EngineConfig, EngineKind, start
from runstore.gateway import Gateway, GatewayConfig
from runstore.lifecycle import started
from runstore.ports import TokenRecord
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from tests.hooks.process import WorkerProcess
from tests.hooks.tasks import PROJECT
from tests.waiting import happens

ROOT: Final = Path(__file__).resolve().parents[2]
SHORT_LEASE_S: Final = "2"
"""For `site.start(…, SITE_LEASE_S=SHORT_LEASE_S)` where a test waits for a lease's end; it is long everywhere else."""


class Site:
    """What runs, and how to ask what became of tasks. Use `async with await Site.begin(folder)`."""

    def __init__(self, folder: Path, broker: Engine, store: Engine) -> None:
        self.folder = folder
        self.broker_url = broker.redis_url
        self.store_url = store.redis_url
        self.stack = AsyncExitStack()
        self._broker = broker
        self._store = store
        self._processes: list[WorkerProcess] = []

    @classmethod
    async def begin(cls, folder: Path) -> Self:
        broker = await asyncio.to_thread(start, EngineConfig(data_dir=folder / "broker", kind=EngineKind.WHEEL))
        return cls(folder, broker, await asyncio.to_thread(_start_store, folder))

    async def __aenter__(self) -> Self:
        self.stack.push_async_callback(asyncio.to_thread, self._broker.stop)
        self.stack.push_async_callback(self.stop_store)
        self.store = await self.stack.enter_async_context(RedisStore.open(self.store_url))
        self.words = redis.asyncio.Redis.from_url(self.broker_url, socket_timeout=None)
        self.stack.push_async_callback(self.words.aclose)
        await self.stack.enter_async_context(Projector(self.store))
        reaper = ReaperConfig(every_ms=100, lease_ms=int(float(SHORT_LEASE_S) * 1000))
        await self.stack.enter_async_context(Reaper(self.store, reaper))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.thaw_store()
        for process in self._processes:
            await process.kill()
            print(f"--- what worker {process.pid} said ---\n{process.said[-20_000:]}")
        await self.stack.aclose()

    @property
    def env(self) -> dict[str, str]:
        """The environment of worker processes; a test that queues tasks in its own process sets it there."""
        return {
            "RUNSTORE_REDIS_URL": self.store_url,
            "RUNSTORE_PROJECT": PROJECT,
            "RUNSTORE_SPOOL_DIR": str(self.folder / "spool"),
            "SITE_BROKER_URL": self.broker_url,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    async def start(self, *argv: str, ready: str | None = None, cwd: Path = ROOT, **env: str) -> WorkerProcess:
        """Start a worker (`python -m …` where argv begins with `-m`), and return when it has said `ready`."""
        command = (sys.executable, *argv) if argv[0].startswith("-") else argv
        process = await WorkerProcess.start(*command, env={**os.environ, **self.env, **env}, cwd=cwd)
        self._processes.append(process)
        if ready is not None:
            await process.says(ready)
        return process

    async def start_gateway(self) -> dict[str, str]:
        """Start a gateway, and return the environment in which a client finds it."""
        token = "a-token-for-tests"
        hashed = sha256(token.encode()).hexdigest()
        scopes = (Scope.READ,)
        record = TokenRecord(name="tests", hash=hashed, scopes=scopes, projects=None, created_at_s=0)
        await self.store.tokens.put(record)
        gateway = Gateway(self.store, GatewayConfig(port=0))
        await self.stack.enter_async_context(started(gateway))
        return {"RUNSTORE_URL": gateway.url, "RUNSTORE_TOKEN": token}

    async def hears(self, word: str, within_s: int = 30) -> None:
        """Wait until a task says a word (`tasks.say`)."""
        assert await self.words.blpop([f"site:{word}"], timeout=within_s), f"no task said {word!r}"

    async def say(self, word: str) -> None:
        """Let a task go on that hears a word (`tasks.hear`)."""
        await self.words.rpush(f"site:{word}", "said")

    async def stop_store(self) -> None:
        """Take the run store away; connections to it are refused."""
        await asyncio.to_thread(self._store.stop)

    async def start_store(self) -> None:
        """Bring the run store back, with its data."""
        self._store = await asyncio.to_thread(_start_store, self.folder)
        assert self._store.redis_url == self.store_url, "somebody took the store's port meanwhile"

    def freeze_store(self) -> None:
        """Let the run store answer nothing, while connections to it stay open."""
        self._signal_store(signal.SIGSTOP)

    def thaw_store(self) -> None:
        """Let it answer again; what was sent meanwhile is done."""
        self._signal_store(signal.SIGCONT)

    def run_id(self, task_id: str) -> RunId:
        """Return the id of a task's run, by the contract's rule."""
        try:
            return parse_run_id(task_id)
        except InvalidRunId:
            return derive_run_id(PROJECT, task_id)

    async def run(self, task_id: str) -> Run | None:
        """Get the run of a task as it stands."""
        (record,) = await self.store.runs.get_many([self.run_id(task_id)])
        return record.run if record is not None else None

    async def until(self, task_id: str, holds: Callable[[Run, list[HistoryItem]], bool], within_s: float = 30) -> Run:
        """Wait for what the feed says of a task's run, also while the store is away for some of the time."""
        places: dict[int, int] | None = None
        run = None
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        places = places or {place.partition: place.n for place, _ in await self.store.feed.tail()}
                        run = await self.run(task_id)
                        if run is not None and holds(run, await self.history(task_id)):
                            return run
                        for partition, entry in await self.store.feed.wait(places, 1000):
                            places[partition] = entry.n
                    except StoreUnavailable:
                        await asyncio.sleep(0.02)  # nothing tells when it is back
        except TimeoutError:
            raise AssertionError(f"in {within_s:g} s the run came no further than this: {run}") from None

    async def ends(self, task_id: str, within_s: float = 30) -> Run:
        """Wait until a task's run has ended."""
        return await self.until(task_id, lambda run, _: run.is_terminal, within_s)

    async def reaches(
        self, task_id: str, status: Status | str, *, attempt: int | None = None, within_s: float = 30
    ) -> Run:
        """Wait until a task's run has reached a status (of an attempt), be it past it by now."""

        def is_there(_: Run, history: list[HistoryItem]) -> bool:
            return any(
                item.status == status and not item.ignored and attempt in {None, item.attempt} for item in history
            )

        return await self.until(task_id, is_there, within_s)

    async def output(self, task_id: str) -> dict[str, Any]:
        """Read the whole output of a run that has ended: `status`, `exit_code`, `stdout`, `stderr`, `outputs`."""
        run = await self.run(task_id)
        assert run is not None
        assert run.output is not None
        size = run.output.output_bytes
        parts = [part async for part in self.store.outputs.read(run.run_id, run.output, 0, size)]
        output: dict[str, Any] = msgspec.json.decode(b"".join(parts))
        return output

    async def history(self, task_id: str) -> list[HistoryItem]:
        """Get the kept events of a task's run, the ignored ones included."""
        return await self.store.runs.history(self.run_id(task_id))

    async def story(self, task_id: str) -> list[str]:
        """Say what became of a run: `running 1`, `running 2`, `success` …; without `pending`, which may come late."""
        applied = [item for item in await self.history(task_id) if not item.ignored and item.status != "pending"]
        return [f"running {item.attempt}" if item.status == "running" else item.status.value for item in applied]

    async def holds(self, runs: int) -> None:
        """Wait until so many runs are held."""

        async def are_held() -> bool:
            return await self.leases() == runs

        await happens(are_held)

    async def leases(self) -> int:
        """Count the runs that somebody holds."""
        return sum([await self.store.client.zcard(keys.leases) for keys in self.store.meta.keys])

    def _signal_store(self, number: int) -> None:
        if self._store.pid is not None and not self._store.has_ended():
            os.kill(self._store.pid, number)


def _start_store(folder: Path) -> Engine:
    return start(EngineConfig(data_dir=folder / "store", kind=EngineKind.WHEEL))
