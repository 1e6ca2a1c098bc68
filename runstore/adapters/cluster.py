"""A cluster seen as one client: each command goes to the server that holds its slot, each pipeline to several at once.

What a server says is elsewhere was not done there, so it is sent to where it is; nothing else is ever sent twice. While
a slot moves, what needs keys on both sides is put off for a moment, then it is StoreUnavailable like all trouble.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from runstore.adapters.connection import StoreClient, StorePipeline
from runstore.core.errors import StoreUnavailable
from runstore.wire.keys import META

Node = tuple[str, int]
Command = tuple[tuple[Any, ...], dict[str, Any]]
MOST_PATIENCE_S: Final = 1.0
"""How long a command is put off while its slot moves."""

_PAUSE_S: Final = 0.02
_MOST_REDIRECTS: Final = 8
_WAITS: Final = frozenset({"WAIT", "WAITAOF"})
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})
_KEYLESS: Final = frozenset({"PING", "TIME", "INFO", "ROLE", "CONFIG", "SCRIPT LOAD", "SCRIPT EXISTS"})
_OF_EACH: Final = frozenset({"SCAN", "KEYS", "DBSIZE", "RANDOMKEY", "FLUSHALL", "FLUSHDB"})
_PUT_OFF: Final = (TryAgainError, ClusterDownError)


class _EveryScript(set[str]):
    """No script is loaded beforehand: a server that does not know one is sent it whole."""

    def __contains__(self, sha: object) -> bool:
        return True


class ClusterClient(StoreClient):
    """A client for all servers of a cluster. `make` makes one for a single server, `nodes` are those to begin with."""

    is_cluster = True

    def __init__(self, nodes: Sequence[Node], make: Callable[[str, int], StoreClient], timeout_s: float) -> None:
        self._make = make
        self._clients: dict[Node, StoreClient] = {}
        self._seeds = tuple(nodes)
        super().__init__(self.at(self._seeds[0]).connection_pool, timeout_s)  # type: ignore[arg-type]
        self.scripts = _EveryScript()
        self._patience_s = min(MOST_PATIENCE_S, timeout_s)
        self._slots: dict[int, Node] = {}
        self._is_stale = True
        self._looking = asyncio.Lock()

    def at(self, node: Node) -> StoreClient:
        """Return the client of one server."""
        if node not in self._clients:
            self._clients[node] = self._make(*node)
        return self._clients[node]

    @property
    def primaries(self) -> frozenset[Node]:
        """The servers that hold slots, as far as is known."""
        return frozenset(self._slots.values())

    async def of_server(self, key: bytes | str) -> StoreClient:
        """Return a client for the server that holds a key. Raises: StoreUnavailable."""
        return self.at(await self.holder(key))

    async def servers(self) -> Sequence[StoreClient]:
        """Return a client for each primary. Raises: StoreUnavailable."""
        await self._look()
        return [self.at(node) for node in sorted(self.primaries)]

    async def holder(self, key: bytes | str) -> Node:
        """Return the server that holds a key.

        Raises: StoreUnavailable.
        """
        return await self._node_of(slot_of_key(key))

    async def plain(self, *args: Any, **options: Any) -> Any:
        """Run one command where its slot is. Raises: what the client raises."""
        if args[0] == "PING":
            await self._look()
            await asyncio.gather(*(self.at(node).plain("PING") for node in self.primaries))
            return True
        slot, redirects = slot_of(args), 0
        end_s = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                return await self.at(await self._node_of(slot)).plain(*args, **options)
            except MovedError as error:
                self._learn(slot, error)
                redirects += 1
                if redirects > _MOST_REDIRECTS:
                    raise
            except AskError as error:
                try:
                    return await self._ask(error, args, options)
                except _PUT_OFF:
                    await self._pause(end_s)
            except _PUT_OFF:
                await self._pause(end_s)
            except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
                self._suspect(error)
                raise

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        """Begin a pipeline, over several servers unless it is a transaction."""
        return ClusterPipeline(self, transaction)

    async def transact(self, stack: Sequence[Command]) -> list[Any]:
        """Run commands of one slot as a transaction. Raises: what the client raises."""
        slot, redirects = slot_of(stack[0][0]), 0
        end_s = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                pipe = self.at(await self._node_of(slot)).pipeline(transaction=True)
                return await _queued(pipe, stack).plain(raise_on_error=False)
            except MovedError as error:
                self._learn(slot, error)
                redirects += 1
                if redirects > _MOST_REDIRECTS:
                    raise
            except (AskError, *_PUT_OFF):
                # some of its keys are here and some are there
                await self._pause(end_s)
            except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
                self._suspect(error)
                raise

    async def scatter(self, stack: Sequence[Command]) -> list[Any]:
        """Run commands in order on each server that holds some of them; a wait is for all of these servers.

        An error stands for what a server that did not answer was asked.

        Raises: what the client raises, where none did.
        """
        waits = [place for place, (args, _) in enumerate(stack) if args[0] in _WAITS]
        groups: defaultdict[Node, list[int]] = defaultdict(list)
        for place, (args, _) in enumerate(stack):
            if args[0] not in _WAITS:
                groups[await self._node_of(slot_of(args))].append(place)
        asked = {node: [*places, *waits] for node, places in groups.items()}
        found = await asyncio.gather(
            *(self._run(node, [stack[place] for place in places]) for node, places in asked.items()),
            return_exceptions=True,
        )
        replies: list[Any] = [None] * len(stack)
        for places, theirs in zip(asked.values(), found, strict=True):
            if isinstance(theirs, BaseException):
                self._suspect(theirs)
                if not isinstance(theirs, Exception) or all(isinstance(each, BaseException) for each in found):
                    raise theirs
            each_reply = [theirs] * len(places) if isinstance(theirs, BaseException) else theirs
            for place, reply in zip(places, each_reply, strict=True):
                replies[place] = reply if place not in waits else _least(replies[place], reply)
        redirected = [place for place, reply in enumerate(replies) if isinstance(reply, (AskError, *_PUT_OFF))]
        for place in redirected:
            args, options = stack[place]
            try:
                replies[place] = await self.plain(*args, **options)
            except ResponseError as error:
                replies[place] = error
        if redirected:
            # what was sent again was not waited for
            replies = [_nothing(stack[place][0]) if place in waits else reply for place, reply in enumerate(replies)]
        return replies

    def doubt(self) -> None:
        """Let no command begin on a connection that is open now, nor by what was known of the slots."""
        self._is_stale = True
        for client in self._clients.values():
            client.doubt()

    async def drop(self) -> None:
        """Close every connection; what is asked next makes its own."""
        self._is_stale = True
        for client in self._clients.values():
            await client.drop()

    async def shut(self) -> None:
        """Close every connection, for good; may be called twice."""
        await super().shut()
        for client in self._clients.values():
            await client.shut()

    async def _run(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        pipe = self.at(node).pipeline(transaction=False)
        return await _queued(pipe, commands).plain(raise_on_error=False)

    async def _ask(self, error: AskError, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        node = error.host or self._seeds[0][0], error.port
        _, reply = await self._run(node, [(("ASKING",), {}), (args, options)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _node_of(self, slot: int) -> Node:
        if self._is_stale or slot not in self._slots:
            await self._look()
        if slot not in self._slots:
            self._is_stale = True
            raise StoreUnavailable(f"no server of the cluster holds slot {slot}")
        return self._slots[slot]

    def _learn(self, slot: int, moved: MovedError) -> None:
        self._slots[slot] = moved.host or self._seeds[0][0], moved.port

    def _suspect(self, error: BaseException) -> None:
        if not isinstance(error, ResponseError):
            self._is_stale = True

    async def _pause(self, end_s: float) -> None:
        if asyncio.get_running_loop().time() >= end_s:
            raise StoreUnavailable("a slot of the cluster is being moved, or held by no server: try again")
        self._is_stale = True
        await asyncio.sleep(_PAUSE_S)

    async def _look(self) -> None:
        """Ask which server holds which slots: any that answers, a different one each time."""
        async with self._looking:
            if not self._is_stale and self._slots:
                return
            nodes = list({*self._seeds, *self._clients})
            random.shuffle(nodes)
            reason: BaseException | None = None
            for node in nodes:
                try:
                    told = await self.at(node).plain("CLUSTER", "SLOTS")
                except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
                    reason = error
                    continue
                if told:
                    self._take(node, told)
                    return
            raise StoreUnavailable("no server of the cluster says which holds which slots") from reason

    def _take(self, teller: Node, told: Sequence[Any]) -> None:
        slots: dict[int, Node] = {}
        for first, last, primary, *_ in told:
            host = primary[0].decode() if primary[0] else ""
            slots.update(dict.fromkeys(range(first, last + 1), (host or teller[0], int(primary[1]))))
        self._slots = slots
        self._is_stale = False


class ClusterPipeline(StorePipeline):
    """A pipeline over a cluster: a transaction is of one slot, anything else may be of many."""

    def __init__(self, client: ClusterClient, transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, None)
        self._client = client

    async def plain(self, raise_on_error: bool = True) -> list[Any]:
        """Run what was queued. Raises: what the client raises."""
        stack: list[Any] = list(self.command_stack)
        self.command_stack = []
        if not stack:
            return []
        replies = await (self._client.transact(stack) if self.is_transaction else self._client.scatter(stack))
        failed = [reply for reply in replies if isinstance(reply, Exception)]
        if raise_on_error and failed:
            raise failed[0]
        return replies


def slot_of(args: tuple[Any, ...]) -> int:
    """Return the slot that a command is about; one about no key goes where the store's own record is."""
    name = args[0]
    if name in _OF_EACH:
        raise ValueError(f"{name} is about all that one server holds: ask each primary of the cluster")
    if name in _KEYLESS:
        return slot_of_key(META)
    if name in _SCRIPTS:
        return slot_of_key(args[3] if int(args[2]) else META)
    if name == "XREAD":
        return slot_of_key(args[args.index("STREAMS") + 1])
    return slot_of_key(args[1])


def slot_of_key(key: bytes | str) -> int:
    """Return the slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def _queued(pipe: StorePipeline, commands: Sequence[Command]) -> StorePipeline:
    for args, options in commands:
        pipe.execute_command(*args, **options)
    return pipe


def _nothing(args: tuple[Any, ...]) -> Any:
    return 0 if args[0] == "WAIT" else [0, 0]


def _least(one: Any, other: Any) -> Any:
    if one is None or isinstance(other, Exception):
        return other
    if isinstance(one, Exception):
        return one
    return [min(pair) for pair in zip(one, other, strict=True)] if isinstance(one, list) else min(one, other)
