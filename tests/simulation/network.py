"""The way to a server in memory: requests and replies are messages of the loop, and may be lost.

A pipeline's commands are done one after the other, and those of others come between, as on a real server. A call that
is not answered in time has failed; whether it was done nobody knows.
"""

from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from copy import copy
from functools import partial
from typing import Any, Protocol

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import NoScriptError, ResponseError

from runstore.adapters.connection import Greeting, StoreClient, StorePipeline
from runstore.adapters.connections import Connections
from runstore.adapters.durability import Safety
from runstore.adapters.meta import Meta
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from tests.simulation.loop import ACTOR, Actor, SimulatedLoop
from tests.simulation.server import Server

BASE_MS = 1_700_000_000_000
TIMEOUT_S = 5.0
BETWEEN = 0.2
"""How often others come between two commands of a pipeline."""

Command = tuple[tuple[Any, ...], dict[str, Any]]


class Caller(Protocol):
    """The way to a server."""

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, and return a reply or an error for each."""
        ...


class Network:
    """The network of one world.

    `cuts` is how often each actor's calls are lost, on either way; `slow_scripts` how often a script comes late, as if
    its process were stopped between look and deed.
    """

    def __init__(self, loop: SimulatedLoop, server: Server) -> None:
        self.loop = loop
        self.server = server
        self.cuts: dict[Actor, float] = {}
        self.slow_scripts = 0.0
        self.under_way = 0
        self._added: set[bytes] = set()
        self._blocked: list[_Blocked] = []
        self.watch: Callable[[bytes], None] = lambda _: None
        server.on_added = self._note

    def _note(self, key: bytes) -> None:
        self._added.add(key)
        self.watch(key)

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, and return a reply or an error for each. Raises: StoreUnavailable."""
        if self.loop.is_over:
            raise StoreUnavailable("the world has ended")
        actor, future = ACTOR.get(), self.loop.create_future()
        block_ms = block_ms_of(commands[0][0])
        limit = self.loop.call_later(TIMEOUT_S + block_ms / 1000, self._settle, future, _lost())
        self.under_way += 1
        slow = self.slow_scripts if commands[0][0][0] == "EVALSHA" else 0.0
        self.loop.send("server", partial(self._arrive, actor, commands, [], future), slow=slow)
        try:
            replies: list[Any] = await future
            return replies
        finally:
            limit.cancel()

    def _arrive(self, actor: Actor, commands: Sequence[Command], replies: list[Any], future: Any) -> None:
        cut = self.cuts.get(actor, 0.0)
        chance = self.loop.chance.random
        if cut and not replies and chance() < cut:
            self._answer(actor, future, _lost())
            return
        while len(replies) < len(commands):
            args, options = commands[len(replies)]
            replies.append(self._execute(args, options))
            self._serve_blocked()
            if len(replies) < len(commands) and chance() < BETWEEN:
                self.loop.send("server", partial(self._arrive, actor, commands, replies, future))
                return
        block_ms = block_ms_of(commands[0][0])
        if block_ms and not replies[0]:
            blocked = _Blocked(actor, commands[0], future)
            self._blocked.append(blocked)
            self.under_way -= 1
            self.loop.call_later(block_ms / 1000, self._unblock, blocked, None, context=_SERVER)
        else:
            self._answer(actor, future, _lost() if cut and chance() < cut else replies)

    def _execute(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self.server.now_ms = BASE_MS + int(self.loop.now_s * 1000)
        return execute(self.server, args, options)

    def _serve_blocked(self) -> None:
        if not self._added:
            return
        added = set(self._added)
        self._added.clear()
        for blocked in list(self._blocked):
            if added.intersection(blocked.command[0]) and (reply := self._execute(*blocked.command)):
                self._unblock(blocked, reply)

    def _unblock(self, blocked: "_Blocked", reply: Any) -> None:
        if blocked in self._blocked:
            self._blocked.remove(blocked)
            self.under_way += 1
            self._answer(blocked.actor, blocked.future, [reply])

    def _answer(self, actor: Actor, future: Any, replies: Any) -> None:
        self.under_way -= 1
        self.loop.send(actor, partial(self._settle, future, replies))

    def _settle(self, future: Any, replies: Any) -> None:
        if future.done():
            return
        if isinstance(replies, Exception):
            future.set_exception(replies)
        else:
            future.set_result(replies)


def execute(server: Server, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run a command, and read its answer as the real client reads it; an error is an answer."""
    try:
        reply = server.execute(args)
    except ResponseError as error:
        return error
    callback = _CALLBACKS.get(args[0])
    return callback(reply, **options) if callback is not None else reply


class _Blocked:
    def __init__(self, actor: Actor, command: Command, future: Any) -> None:
        self.actor = actor
        self.command = command
        self.future = future


_SERVER = copy_context()
_SERVER.run(ACTOR.set, "server")


def _lost() -> StoreUnavailable:
    return StoreUnavailable("the connection broke")


def block_ms_of(args: tuple[Any, ...]) -> int:
    return int(args[args.index("BLOCK") + 1]) if args[0] == "XREAD" and "BLOCK" in args else 0


class SimulatedClient(StoreClient):
    """A client on the simulated network."""

    network: "Caller"

    @classmethod
    def on(cls, network: "Caller", scripts: Iterable[str]) -> "SimulatedClient":
        """Make a client that has loaded scripts already. A copy: to make one of the real client's takes long."""
        client = copy(_PROTOTYPE)
        client.network, client.scripts = network, set(scripts)
        client._begun, client._ends = set(), []
        return client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        (reply,) = await self.network.call([(args, options)])
        if isinstance(reply, NoScriptError):
            raise reply
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"Redis did not do as asked: {reply}") from reply
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> StorePipeline:
        pipe = SimulatedPipeline(self.connection_pool, {}, transaction, shard_hint)
        pipe.network = self.network
        return pipe

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """There is nothing to close."""


_PROTOTYPE = SimulatedClient(BlockingConnectionPool(protocol=2), TIMEOUT_S)
_CALLBACKS: dict[str, Any] = dict(_PROTOTYPE.response_callbacks)


class SimulatedPipeline(StorePipeline):
    """A pipeline on the simulated network."""

    network: "Caller"

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = [(args, options) for args, options in self.command_stack]
        self.command_stack = []
        replies = await self.network.call(commands) if commands else []
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors and raise_on_error:
            raise StoreUnavailable(f"Redis did not do as asked: {errors[0]}") from errors[0]
        return replies


def open_store(network: "Caller", partitions: int, scripts: Iterable[str] = ()) -> RedisStore:
    """Open the store of a simulated server, as one more process."""
    connections = Connections.__new__(Connections)
    connections._greeting = Greeting()
    connections.client = connections.blocking = SimulatedClient.on(network, scripts)
    connections.timeout_s = TIMEOUT_S
    return RedisStore(connections, Meta(partitions, "simulated"), Safety())
