"""A whole way for runs in the test's own loop: a store, its projector and reaper, a repository, workers of any kind."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from runstore_worker.config import WorkerConfig, parse_projects
from runstore_worker.worker import Worker
from tests.projector.builders import event_of
from tests.worker.conftest import Repo

LEASE_MS = 1500
MODEL = 'import json, os\nexec(json.load(open(os.environ["RUNSTORE_INPUTS"]))["code"])\n'
PROCESS = """
import asyncio, json, signal, sys
from pathlib import Path
from runstore_worker.config import WorkerConfig, parse_projects
from runstore_worker.worker import Worker
async def main(url, tables, config):
    projects = parse_projects({"projects": tables}, Path("runstore.toml"))
    config["data_dir"] = Path(config["data_dir"])
    worker = Worker(url, WorkerConfig(projects=projects, **config))
    await worker.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(worker.stop()))
    print("ready", flush=True)
    await worker.wait()
asyncio.run(main(*json.loads(sys.argv[1])))
"""


class WorkerProcess:
    """A worker in a process of its own, that may be frozen and killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def kill(self) -> None:
        self.send(signal.SIGKILL)
        await self.process.wait()


class Stage:
    """What runs, and what a test may ask of it."""

    def __init__(self, redis_url: str, store: RedisStore, folder: Path, stack: AsyncExitStack) -> None:
        self.redis_url = redis_url
        self.store = store
        self.folder = folder
        self.repo = Repo(folder / "forecasts")
        self.sha = self.repo.commit(**{"model.py": MODEL})
        self._stack = stack

    def config(self, **changes: Any) -> dict[str, Any]:
        return {"data_dir": self.folder / "data", "lease_ms": LEASE_MS, "concurrency": 4, "grace_s": 0, **changes}

    def table(self, **changes: Any) -> dict[str, Any]:
        command = [sys.executable, "model.py"]
        return {"repository": str(self.repo.path), "command": command, "timeout_s": 30, "grace_s": 1, **changes}

    async def worker(self, *, project: Mapping[str, Any] | None = None, **changes: Any) -> Worker:
        """Start a worker in this process."""
        projects = parse_projects({"projects": {"forecasts": self.table(**(project or {}))}}, self.folder / "toml")
        config = WorkerConfig(projects=projects, **self.config(**changes))
        worker = Worker(self.redis_url, config)
        await worker.start()
        self._stack.push_async_callback(worker.stop)
        return worker

    async def worker_process(self, *, project: Mapping[str, Any] | None = None, **changes: Any) -> WorkerProcess:
        """Start a worker in a process of its own."""
        told = [self.redis_url, {"forecasts": self.table(**(project or {}))}, self.config(**changes)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, json.dumps(told, default=str), stdout=asyncio.subprocess.PIPE, env=env
        )
        made = WorkerProcess(process)
        self._stack.push_async_callback(made.kill)
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"ready\n"
        return made

    async def ask(self, code: str, **request: Any) -> RunId:
        """Ask for a run of some Python."""
        run_id = RunId(str(uuid4()))
        told = {"inputs": {"code": code}, "fingerprint": "f", **request}
        await self.store.log.append(run_id, event_of(run_id, "pending", numbered=True, request=told))
        return run_id

    async def tell(self, run_id: RunId, status: str, **fields: Any) -> None:
        await self.store.log.append(run_id, event_of(run_id, status, **fields))

    async def look(self, run_id: RunId) -> Run | None:
        (record,) = await self.store.runs.get_many([run_id])
        return record.run if record is not None else None

    async def reaches(self, run_id: RunId, *statuses: str, within_s: float = 20) -> Run:
        """Wait until a run has one of the statuses, and return it; it fails where another terminal one came."""
        async with asyncio.timeout(within_s):
            places = {place.partition: place.n for place, _ in await self.store.feed.tail()}
            while True:
                run = await self.look(run_id)
                if run is not None and run.status in statuses:
                    return run
                assert run is None or not run.is_terminal, (run.status, run.error_message)
                for partition, entry in await self.store.feed.wait(places, 1000):
                    places[partition] = entry.n

    async def ends(self, run_id: RunId, within_s: float = 20) -> tuple[str, str | None]:
        """Wait for a run's end, and return its status and why."""
        run = await self.reaches(run_id, *(s for s in Status if s not in ("pending", "running")), within_s=within_s)
        return run.status.value, run.error_message

    async def output(self, run_id: RunId) -> dict[str, Any]:
        """Read the full output of a run that has ended."""
        run = await self.look(run_id)
        assert run is not None and run.output is not None, run
        pieces = self.store.outputs.read(run_id, run.output, 0, run.output.output_bytes)
        return json.loads(b"".join([piece async for piece in pieces]))

    async def says(self, run_id: RunId, word: bytes, within_s: float = 20) -> bytes:
        """Wait until a run's logs hold a word, and return all of them."""
        said, after = b"", "0"
        async with asyncio.timeout(within_s):
            while word not in said:
                for chunk in await self.store.logs.read_logs(run_id, after, 1000):
                    said, after = said + chunk.data, chunk.after
        return said


@asynccontextmanager
async def staged(redis_url: str, folder: Path, *, lease_ms: int = LEASE_MS) -> AsyncIterator[Stage]:
    """Hold a stage for the length of an `async with`."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(RedisStore.open(redis_url))
        projector, reaper = Projector(store), Reaper(store, ReaperConfig(lease_ms=lease_ms, every_ms=100))
        await stack.enter_async_context(projector)
        await reaper.start()
        stack.push_async_callback(reaper.stop)
        yield Stage(redis_url, store, folder, stack)
