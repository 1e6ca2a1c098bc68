"""The execution worker: claims runs while it has room, executes each, and drains when it is told to stop."""

import asyncio
import logging
import os
import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import Self

from runstore import AsyncPublisher, PublisherConfig
from runstore.dispatch import Claim, Dispatch, DispatchConfig, ServedProject
from runstore_worker.config import ConfigError, WorkerConfig
from runstore_worker.execute import Execution, Tools
from runstore_worker.folders import WorkFolders
from runstore_worker.repository import Mirrors

CLOSE_S = 10.0

log = logging.getLogger(__name__)


class Worker:
    """Executes runs of its projects. Any number of workers may serve one store."""

    def __init__(self, redis_url: str, config: WorkerConfig, *, publishing: PublisherConfig | None = None) -> None:
        """`publishing` says among others how durable an acknowledged event is.

        Raises: ConfigError where there is no project.
        """
        if not config.projects:
            raise ConfigError("a worker needs a project: add a table [projects.NAME]")
        self._projects = config.projects
        self.config = config
        self._publishing = publishing
        self.name = (config.name or f"{socket.gethostname()}:{os.getpid()}")[:200]
        self._redis_url = redis_url
        self._resources = AsyncExitStack()
        self._slots = asyncio.Semaphore(config.concurrency)
        self._executions: dict[asyncio.Task[None], Execution] = {}
        self._claiming: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.ends: Counter[str] = Counter()
        """Runs that it is done with, by how they ended, or `lost` to another, or `returned` for another attempt."""

    async def start(self) -> None:
        """Register the projects and begin to claim; return once that is done.

        Raises: InvalidRequest for a URL that cannot be, StoreUnavailable, OSError.
        """
        try:
            tools = await self._open()
        except BaseException:
            await self._resources.aclose()
            raise
        self._claiming = asyncio.create_task(self._claim_forever(tools), name="runstore-worker")

    async def stop(self) -> None:
        """Claim nothing more, let runs end within the grace, end the rest; may be called twice."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._drain(), name="runstore-worker-stop")
        await asyncio.shield(self._stopping)

    async def wait(self) -> None:
        """Return when it was stopped. Raises: what ended it, where it was not stopped."""
        if self._claiming is None:
            return
        await asyncio.wait({self._claiming})
        if not self._claiming.cancelled():
            await self._claiming
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def running(self) -> int:
        """How many runs it executes at present."""
        return len(self._executions)

    @property
    def slots(self) -> int:
        """How many it executes at most."""
        return self.config.concurrency

    async def _open(self) -> Tools:
        folders = WorkFolders(self.config.data_dir / "work")
        self._resources.push_async_callback(folders.close)
        await folders.open()
        publisher = await self._resources.enter_async_context(AsyncPublisher(self._redis_url, config=self._publishing))
        held = DispatchConfig(
            name=self.name, lease_ms=self.config.lease_ms, deadline_slack_s=self.config.deadline_slack_s
        )
        dispatch = await self._resources.enter_async_context(Dispatch.open(self._redis_url, held))
        await dispatch.register(
            ServedProject(
                name=project.name, attempts=project.attempts, timeout_s=project.timeout_s, grace_s=project.grace_s
            )
            for project in self._projects.values()
        )
        return Tools(
            config=self.config,
            name=self.name,
            dispatch=dispatch,
            publisher=publisher,
            mirrors=Mirrors(self.config.data_dir / "mirrors"),
            folders=folders,
            one_at_a_time=asyncio.Semaphore(1),
        )

    async def _claim_forever(self, tools: Tools) -> None:
        while True:
            await self._slots.acquire()
            try:
                claim = await tools.dispatch.claim()
            except BaseException:
                self._slots.release()
                raise
            self._begin(claim, tools)

    def _begin(self, claim: Claim, tools: Tools) -> None:
        execution = Execution(claim, self._projects[claim.project.name], tools)
        task = asyncio.create_task(execution.run(), name=f"runstore-execution-{claim.run_id}")
        self._executions[task] = execution
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        execution = self._executions.pop(task)
        self._slots.release()
        if execution.outcome:
            self.ends[execution.outcome] += 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("execution_broke", extra={"run_id": execution.claim.run_id}, exc_info=error)

    async def _drain(self) -> None:
        config = self.config
        log.info("worker_drains", extra={"runs": self.running})
        if self._claiming is not None:
            self._claiming.cancel()
            await asyncio.wait({self._claiming})
        try:
            if not await self._all_ended(config.grace_s):
                for execution in self._executions.values():
                    execution.stop()
            if not await self._all_ended(config.kill_after_s):
                for execution in self._executions.values():
                    execution.kill()
            if not await self._all_ended(config.last_words_s + CLOSE_S):
                for task in list(self._executions):
                    task.cancel()
                await self._all_ended(CLOSE_S)
        finally:
            await self._resources.aclose()

    async def _all_ended(self, timeout_s: float) -> bool:
        tasks = set(self._executions)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        return not any(not task.done() for task in tasks)
