"""Fate: at one call to Redis a process dies, or the call fails and the process lives on.

Each call is known by its name and by how often its process made it before, so that a point means the same in each
telling of a story. A process is whatever runs in a context with its fate; once dead, none of its calls ever returns.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple
from weakref import WeakSet

import pytest

import runstore.adapters
from runstore.adapters import connection
from runstore.adapters.connection import Script, StoreClient, StorePipeline
from runstore.core.errors import StoreUnavailable
from runstore.publish import spools
from runstore.publish.spool import Spool


class Moment(StrEnum):
    """When a call goes wrong."""

    DIES_BEFORE = "dies before it is sent"
    DIES_AFTER = "dies after it is done"
    FAILS_BEFORE = "fails before it is sent"
    REPLY_LOST = "is done, and its reply is lost"


class Call(NamedTuple):
    """A call by name, and which of its name it is."""

    name: str
    nth: int


class Point(NamedTuple):
    """A call, and what becomes of it."""

    call: Call
    moment: Moment


class Fate:
    """What becomes of one process: it notes its calls and, where a point is given, meets it there."""

    def __init__(self, point: Point | None = None) -> None:
        self.calls: list[Call] = []
        self.met = False
        self.is_away = False
        self.is_over = False
        self.under_way = 0
        self.died = asyncio.Event()
        self._point = point
        self._counts: Counter[str] = Counter()

    async def call(self, name: str, act: Any) -> Any:
        """Make a call, or what fate makes of it."""
        await self._survive()
        call = Call(name, self._counts[name])
        self._counts[name] += 1
        if not self.met:  # what follows is another story
            self.calls.append(call)
        moment = self._point.moment if self._point is not None and self._point.call == call else None
        self.met |= moment is not None
        if self.is_away:
            raise StoreUnavailable("the store is away")
        if moment is Moment.DIES_BEFORE:
            self.died.set()
        elif moment is Moment.FAILS_BEFORE:
            raise StoreUnavailable("the connection broke")
        reply = await self._act(name, act)
        if moment is Moment.DIES_AFTER:
            self.died.set()
        elif moment is Moment.REPLY_LOST:
            raise StoreUnavailable("the connection broke")
        await self._survive()
        return reply

    async def _act(self, name: str, act: Any) -> Any:
        await self._survive()
        writes = name != "XREAD"
        self.under_way += writes
        try:
            return await act()
        finally:
            self.under_way -= writes

    async def _survive(self) -> None:
        if self.is_over:
            raise StoreUnavailable("the world has ended")
        if self.died.is_set():
            await asyncio.get_running_loop().create_future()


FATE: ContextVar[Fate | None] = ContextVar("fate", default=None)


class FatedClient(StoreClient):
    """A client whose calls meet the fate of their process."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        fate, act = FATE.get(), super().execute_command
        if fate is None:
            return await act(*args, **options)
        return await fate.call(_name(args), lambda: act(*args, **options))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> StorePipeline:
        return _FatedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _FatedPipeline(StorePipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        fate, act = FATE.get(), super().execute
        if fate is None or not self.command_stack:
            return await act(raise_on_error)
        names = sorted({_name(command[0]) for command in self.command_stack})
        replies: list[Any] = await fate.call("+".join(names), lambda: act(raise_on_error))
        return replies


class _FatedSpool(Spool):
    """A spool that knows whose it is: the system takes its lock from a process that dies."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fate = FATE.get()
        _spools.add(self)


_spools: WeakSet[_FatedSpool] = WeakSet()


def unlock(fate: Fate) -> None:
    """Do what the system does for the spools of a process that died."""
    for spool in list(_spools):
        if spool.fate is fate:
            spool.disown()


async def _at_once(act: Any, *args: Any, **kwargs: Any) -> Any:
    return act(*args, **kwargs)


@contextmanager
def fated() -> Iterator[None]:
    """Let every client and spool that is made meanwhile be a fated one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "StoreClient", FatedClient)
        patch.setattr(spools, "Spool", _FatedSpool)
        # a thread would live on
        patch.setattr(asyncio, "to_thread", _at_once)
        yield


def scripts() -> dict[str, str]:
    """Name every script of the adapters, by its hash."""
    found: dict[str, str] = {}
    modules = [f"runstore.adapters.{module.name}" for module in iter_modules(runstore.adapters.__path__)]
    for module in [*modules, "runstore.projection.reader"]:
        for name, value in vars(import_module(module)).items():
            if isinstance(value, Script):
                found.setdefault(value.sha, f"{module.removeprefix('runstore.').removeprefix('adapters.')}.{name}")
    return found


_SCRIPTS = scripts()


def _name(args: Any) -> str:
    first = str(args[0]).upper()
    if first in {"EVALSHA", "EVAL"}:
        known = args[1] if first == "EVALSHA" else Script(args[1]).sha
        return _SCRIPTS.get(known, "a script without a name")
    if first == "SCRIPT LOAD":
        return f"load {_SCRIPTS.get(Script(args[1]).sha, 'a script')}"
    return first
