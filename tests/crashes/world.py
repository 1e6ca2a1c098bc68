"""A world of processes over one server, of which one may die at a given call and is begun anew.

A process is an object graph and the tasks it made. A dead one is left as it is, holding nothing that the system would
take from it (the lock of its spool); its successor has another graph. Steps are done as a client would: again, until
one ends.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.principal import Principal, Scope
from runstore.core.status import Status
from runstore.dispatch import Dispatch, DispatchConfig, ServedProject
from runstore.feed import FeedTail
from runstore.gateway.app import make_services
from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import Caller
from runstore.gateway.credentials import Credentials
from runstore.gateway.mcp_port import GatewayPort
from runstore.projector import Projector, ProjectorConfig
from runstore.publish import AsyncPublisher, PublisherConfig
from runstore.reaper import Reaper, ReaperConfig
from tests.crashes.fate import FATE, Fate, Point, unlock
from tests.waiting import happens

T = TypeVar("T")
LEASE_MS = 100
PARTITIONS = 1
PROJECT = "forecasts"
MOST_TRIES = 12
EVERYBODY = Principal(name="caller", scopes=frozenset({Scope.ADMIN}), projects=None)


class Process:
    """One process: what it is made of is made when it is first needed, in the process's own context."""

    def __init__(self, url: str, folder: Path, fate: Fate) -> None:
        self.fate = fate
        self._url = url
        self._folder = folder
        self._context = copy_context()
        self._context.run(FATE.set, fate)
        self._port: GatewayPort | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self.store: RedisStore

    async def run(self, step: "Step[T]") -> T | None:
        """Do a step; None where the process died of it. Raises: what the step raises."""
        task = asyncio.get_running_loop().create_task(self._run(step), context=self._context)
        self._tasks.append(task)
        died = asyncio.get_running_loop().create_task(self.fate.died.wait())
        await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if self.fate.died.is_set():
            return None
        return task.result()

    async def _run(self, step: "Step[T]") -> T:
        if not hasattr(self, "store"):
            self.store = await RedisStore.connect(self._url, partitions=PARTITIONS)
        return await step(self)

    @cached_property
    def publisher(self) -> AsyncPublisher:
        config = PublisherConfig(spool_dir=str(self._folder), backoff_s=0.001, max_backoff_s=0.002, timeout_s=2.0)
        return AsyncPublisher(self._url, PROJECT, config=config)

    @cached_property
    def projector(self) -> Projector:
        return Projector(self.store, ProjectorConfig(batch_entries=2, trim_every_commits=1, lease_ms=LEASE_MS))

    @cached_property
    def reaper(self) -> Reaper:
        return Reaper(self.store, ReaperConfig(every_ms=10, lease_ms=LEASE_MS))

    @cached_property
    def dispatch(self) -> Dispatch:
        dispatch = Dispatch(self.store, DispatchConfig(lease_ms=LEASE_MS, recheck_s=0))
        dispatch._projects = {PROJECT: ServedProject(name=PROJECT, attempts=20)}
        return dispatch

    async def gateway(self) -> GatewayPort:
        """Serve as a gateway, for a caller who may do everything."""
        if self._port is None:
            tail = FeedTail(self.store.feed, self.store.outputs.view)
            await tail.start()
            config = GatewayConfig()
            self.services = make_services(self.store, config, tail, Credentials(self.store, config, None))
            self._port = GatewayPort(self.services, Caller(principal=EVERYBODY, digest=b"", vouchers=()), None)
        return self._port

    async def aclose(self) -> None:
        if hasattr(self, "store"):
            await self.store.aclose()
        if "publisher" in self.__dict__:
            await self.publisher._held.aclose()


Step = Callable[[Process], Awaitable[T]]


class World:
    """The processes by role. The first one in the role `doomed` meets the point."""

    def __init__(self, url: str, folder: Path, doomed: str, point: Point | None) -> None:
        self.url = url
        self.folder = folder
        self.fate = Fate(point)
        self.acknowledged: list[str] = []
        self.ends: dict[RunId, Status] = {}
        self._doomed = doomed
        self._is_doomed = True
        self._processes: dict[str, Process] = {}
        self._dead: list[Process] = []

    async def do(self, role: str, step: Step[T]) -> T:
        """Let the process of a role do a step, again where it failed, by a successor where it died."""
        for _ in range(MOST_TRIES):
            try:
                process = self.process(role)
                done = await process.run(step)
            except StoreUnavailable:
                continue
            if not process.fate.died.is_set():
                return done  # type: ignore[return-value]
            self.die(role)
        raise AssertionError(f"the {role} does not get anywhere")

    def process(self, role: str) -> Process:
        """Return the process of a role, begun where there is none."""
        if role not in self._processes:
            fate = Fate()
            if role == self._doomed and self._is_doomed:
                fate, self._is_doomed = self.fate, False
            self._processes[role] = Process(self.url, self.folder, fate)
        return self._processes[role]

    def die(self, role: str) -> None:
        """Let a process end here and now, and its successor be another one."""
        process = self._processes.pop(role)
        process.fate.died.set()
        unlock(process.fate)
        self._dead.append(process)

    async def publish(self, run_id: RunId, status: Status, **told: Any) -> None:
        """Publish by the publisher, and expect to find it."""

        async def step(process: Process) -> None:
            published = await process.publisher.publish(run_id, status, **told)
            self.acknowledged.append(published.event_id)

        await self.do("publisher", step)

    async def drain(self, role: str = "projector") -> None:
        """Fold what there is."""
        await self.do(role, lambda process: process.projector.drain())

    async def end_all(self) -> None:
        """Let every process end, and what it had sent be done."""
        for role in list(self._processes):
            self.die(role)
        await happens(lambda: not any(process.fate.under_way for process in self._dead))

    async def aclose(self) -> None:
        """End whatever is left, and close what it holds."""
        everyone = [*self._processes.values(), *self._dead]
        for process in everyone:
            process.fate.is_over = True
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in everyone:
            await process.aclose()
