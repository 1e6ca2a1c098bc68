"""A whole site for the worker: a real server, projector and reaper, projects, workers in and out of process."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from runstore.adapters.store import RedisStore
from runstore.core.event import Event, RunRequest
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from runstore.wire.event import encode_event
from runstore_worker import Project, Worker, WorkerConfig
from tests import waiting

LEASE_MS = 1_500
MAIN = """
import asyncio, signal, sys
import msgspec
from runstore_worker import Worker, WorkerConfig, hide_from_models
async def main():
    hide_from_models()
    config = msgspec.json.decode(sys.argv[2], type=WorkerConfig, dec_hook=lambda kind, value: kind(value))
    worker = Worker(sys.argv[1], config)
    await worker.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(worker.stop()))
    print("ready", flush=True)
    await worker.wait()
asyncio.run(main())
"""


class Site:
    """What runs, and how to ask it for runs."""

    def __init__(self, redis_url: str, store: RedisStore, folder: Path, repository: Path) -> None:
        self.redis_url = redis_url
        self.store = store
        self.folder = folder
        self.repository = repository
        self.stack = AsyncExitStack()
        self.reaper = Reaper(store, ReaperConfig(every_ms=100, lease_ms=LEASE_MS))
        self.projector = Projector(store)

    def project(self, code: str, **settings: Any) -> Project:
        command = (sys.executable, "-c", code)
        fields = {"name": "forecasts", "command": command, "timeout_s": 30, "grace_s": 5, **settings}
        return Project(folder=self.repository.parent, repository=str(self.repository), **fields)

    def config(self, *projects: Project, **settings: Any) -> WorkerConfig:
        fields = {
            "name": "w",
            "lease_ms": LEASE_MS,
            "grace_s": 0.1,
            "kill_after_s": 0.5,
            "logs_every_s": 0.02,
            **settings,
        }
        return WorkerConfig(
            projects={project.name: project for project in projects}, **{"data_dir": self.folder / "data", **fields}
        )

    async def worker(self, *projects: Project, **settings: Any) -> Worker:
        worker = Worker(self.redis_url, self.config(*projects, **settings))
        return await self.stack.enter_async_context(worker)

    async def worker_process(self, *projects: Project, **settings: Any) -> asyncio.subprocess.Process:
        config = msgspec.json.encode(self.config(*projects, **settings), enc_hook=str)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAIN, self.redis_url, config.decode(), stdout=asyncio.subprocess.PIPE
        )
        self.stack.push_async_callback(_end, process)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        return process

    async def ask(self, project: str = "forecasts", *, traceparent: str | None = None, **request: Any) -> RunId:
        run_id = RunId(str(uuid4()))
        inputs = msgspec.Raw(msgspec.json.encode(request.pop("inputs", {})))
        event = Event(
            run_id=run_id,
            status=Status.PENDING,
            project_name=project,
            numbered=True,
            traceparent=traceparent,
            request=RunRequest(inputs=inputs, fingerprint="f", **request),
        )
        await self.store.log.append(run_id, encode_event(event))
        return run_id

    async def get(self, run_id: RunId) -> Run | None:
        record = (await self.store.runs.get_many([run_id]))[0]
        return record.run if record is not None else None

    async def until(self, run_id: RunId, holds: Callable[[Run], bool], within_s: float = 20) -> Run:
        """Wait for what the feed says of a run."""
        places = {place.partition: place.n for place, _ in await self.store.feed.tail()}
        async with asyncio.timeout(within_s):
            while (run := await self.get(run_id)) is None or not holds(run):
                for partition, entry in await self.store.feed.wait(places, 1000):
                    places[partition] = entry.n
        return run

    async def end(self, run_id: RunId, within_s: float = 20) -> Run:
        return await self.until(run_id, lambda run: run.is_terminal, within_s)

    async def running(self, run_id: RunId, attempt: int = 1) -> Run:
        return await self.until(run_id, lambda run: run.status is Status.RUNNING and run.attempt == attempt)

    async def output(self, run: Run) -> dict[str, Any]:
        assert run.output is not None
        parts = [part async for part in self.store.outputs.read(run.run_id, run.output, 0, run.output.output_bytes)]
        return msgspec.json.decode(b"".join(parts))

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        return await self.store.runs.history(run_id)

    async def cancel(self, run_id: RunId) -> bool:
        return await self.store.served.ask_cancel(run_id)

    def left_behind(self) -> list[Path]:
        return [path for path in self.folder.glob("data/work/*/*") if path.name != "lock"]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        await process.wait()


happens = partial(waiting.happens, within_s=5)
"""Wait until something holds that nothing tells of."""


def processes_with(text: str) -> list[int]:
    """Find processes whose command line holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if text.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found
