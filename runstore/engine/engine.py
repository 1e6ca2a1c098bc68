"""Start an engine, hold it, stop it: the chain from a given URL down to memory."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from runstore.engine import folder as data_folder
from runstore.engine.address import Address, pick_port, remember
from runstore.engine.config import EngineConfig, EngineKind
from runstore.engine.errors import NoServer, PortTaken, ServerFailed
from runstore.engine.find import OLDEST, Program, find_programs
from runstore.engine.memory import MemoryServer
from runstore.engine.process import ServerProcess

_PORT_TRIES = 5


class _Server(Protocol):
    pid: int | None

    def has_ended(self, wait_s: float = 0.0) -> bool: ...
    async def until_ended(self) -> None: ...
    def stop(self) -> None: ...


class Engine:
    """A server that answers. The end of this process, of whatever kind, ends the server too."""

    def __init__(self, redis_url: str, kind: EngineKind, server: _Server | None) -> None:
        self.redis_url = redis_url
        self.kind = kind
        self._server = server

    @property
    def durable(self) -> bool:
        """Whether the data outlives the engine; of an external server we assume it."""
        return self.kind is not EngineKind.MEMORY

    @property
    def pid(self) -> int | None:
        """The server's process, if it is one of ours."""
        return None if self._server is None else self._server.pid

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Tell whether the server has gone, waiting so long for it; never so of an external one."""
        return self._server is not None and self._server.has_ended(wait_s)

    async def until_ended(self) -> None:
        """Return when the server has gone, for whatever reason; never for an external one."""
        await (asyncio.Event().wait() if self._server is None else self._server.until_ended())

    def stop(self) -> None:
        """Stop the server and return when it has gone. May be called again; an external one is left alone."""
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(config: EngineConfig) -> Engine:
    """Start the first server of the chain and return when it answers.

    Raises: DataFolderInUse; DataFolderUnusable; NoServer; ServerFailed.
    """
    if config.redis_url is not None:
        return Engine(config.redis_url, EngineKind.EXTERNAL, None)
    if config.kind is EngineKind.EXTERNAL:
        raise NoServer("an external server needs a redis_url")
    folder = config.data_dir.absolute()
    data_folder.make(folder)
    lock = data_folder.acquire(folder, patience_s=config.lock_patience_s)
    try:
        return _start_owned(config, folder, lock)
    finally:
        # from here on the server alone holds it, so a child that our process forks cannot
        os.close(lock)


@asynccontextmanager
async def running(config: EngineConfig) -> AsyncIterator[Engine]:
    """Hold an engine for the length of an `async with`; starting and stopping never block the loop."""
    starting = asyncio.ensure_future(asyncio.to_thread(start, config))
    try:
        yield await asyncio.shield(starting)
    finally:
        # a task of its own, so that being cancelled, now or while it was starting, leaves no server behind
        await asyncio.shield(asyncio.ensure_future(_stop(starting)))


async def _stop(starting: asyncio.Future[Engine]) -> None:
    await asyncio.wait({starting})
    if starting.exception() is None:
        await asyncio.to_thread(starting.result().stop)


def _start_owned(config: EngineConfig, folder: Path, lock: int) -> Engine:
    password = data_folder.password(folder)
    failure: ServerFailed | None = None
    for program in find_programs(config.kind, config.search_path):
        try:
            return _start_program(program, config, folder, lock, password)
        except ServerFailed as error:
            # two servers may differ in which data they can read: one older than the writer refuses
            failure = failure or error
    if failure is not None:
        raise failure
    if config.kind in {None, EngineKind.MEMORY}:
        return _start_memory(folder, lock, password)
    raise NoServer(f"no {config.kind} server, {OLDEST[0]}.{OLDEST[1]} or newer, is on this machine")


def _start_memory(folder: Path, lock: int, password: str) -> Engine:
    memory = MemoryServer(password, lock)
    address = Address(kind=EngineKind.MEMORY, port=memory.port, password=password)
    try:
        remember(folder, address)
    except BaseException:
        memory.stop()
        raise
    return Engine(address.redis_url, EngineKind.MEMORY, memory)


def _start_program(program: Program, config: EngineConfig, folder: Path, lock: int, password: str) -> Engine:
    for tries_left in reversed(range(_PORT_TRIES)):
        address = Address(kind=program.kind, port=pick_port(folder), password=password)
        server = ServerProcess(program, folder, address, lock, config)
        try:
            server.wait_until_ready()
            remember(folder, address)
        except PortTaken:
            if not tries_left:
                raise
        except BaseException:
            server.stop()
            raise
        else:
            return Engine(address.redis_url, program.kind, server)
    raise AssertionError("unreachable: the last try returns or raises")
