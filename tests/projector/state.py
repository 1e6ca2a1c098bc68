"""The state that a store ends in, so that two can be compared; and steps at every call to Redis."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from runstore.adapters.connection import StoreClient, StorePipeline
from runstore.adapters.store import RedisStore
from runstore.wire.feed import decode_feed

State = dict[bytes, Any]


async def state_of(store: RedisStore) -> State:
    """Read every key of every partition, without what differs from one life of a store to another.

    Left out: epochs, nonces and numbers of commits, for a crash may cut the batches differently; leases of partitions;
    reservations of run numbers, which are forgotten some time after they were used.
    """
    state: State = {}
    for key in sorted(await store.client.keys("runstore:{*")):
        kind = await store.client.type(key)
        if key.endswith(b":owner"):
            continue
        if kind == b"hash":
            state[key] = await store.client.hgetall(key)
        elif kind == b"zset":
            state[key] = await store.client.zrange(key, 0, -1, withscores=True)
        elif kind == b"string":
            state[key] = (await store.client.get(key), await store.client.ttl(key) < 0)
        elif key.endswith(b":feed"):
            state[key] = await _told(store, key)
        else:
            state[key] = [fields for _, fields in await store.client.xrange(key)]
        if key.endswith(b":cursor"):
            state[key] = state[key][b"entry"]
        elif b"}:r:" in key:
            state[key].pop(b"v", None)
        elif key.endswith(b"}:numbers"):
            state[key] = {name: value for name, value in state[key].items() if name == b"last"}
    return state


async def _told(store: RedisStore, key: bytes) -> list[bytes]:
    entries = [decode_feed(fields[b"c"]) for _, fields in await store.client.xrange(key)]
    assert [entry.n for entry in entries] == list(range(1, len(entries) + 1)), "the feed is dense"
    assert len({entry.nonce for entry in entries}) == len(entries), "each commit has a nonce of its own"
    return [msgspec.json.encode(change) for entry in entries for change in entry.changes]


class Crash(BaseException):
    """The process is gone."""


Step = Callable[[], Awaitable[None]]


class SteppedClient(StoreClient):
    """A client that takes a step before and after every call to Redis: to count, to wait for its turn, or to die."""

    step: Step

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self.step()
        reply = await super().execute_command(*args, **options)
        await self.step()
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> StorePipeline:
        return _SteppedPipeline(self, transaction, shard_hint)


class _SteppedPipeline(StorePipeline):
    def __init__(self, client: SteppedClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._step = client.step

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        await self._step()
        replies = await super().execute(raise_on_error)
        await self._step()
        return replies


def stepped(store: RedisStore, step: Step) -> None:
    """Let a store take steps."""
    client = SteppedClient(store.connections.client.connection_pool, store.connections.timeout_s)  # type: ignore[arg-type]
    client.step = step
    store.connections.client = client
    for adapter in (store.log, store.runs, store.outputs, store.feed):
        adapter._client = client


class Fate:
    """Count steps, and die at one of them (-1: never)."""

    def __init__(self, dies_at: int) -> None:
        self.steps = 0
        self._dies_at = dies_at

    async def step(self) -> None:
        self.steps += 1
        if 0 <= self._dies_at < self.steps:
            raise Crash


class Turns:
    """Let several go on by turns that chance chooses: each waits at every step until it is chosen."""

    def __init__(self, names: list[str], seed: int) -> None:
        self._chance = random.Random(seed)
        self._patience = self._chance.choice([1, 2, 10, 40])
        self._active = set(names)
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._chosen = names[0]

    async def step(self, name: str) -> None:
        """Wait to be chosen."""
        self._waiting[name] = asyncio.get_running_loop().create_future()
        self._choose()
        await self._waiting[name]
        del self._waiting[name]

    def leave(self, name: str) -> None:
        """Be waited for no longer."""
        self._active.discard(name)
        self._choose()

    def _choose(self) -> None:
        waiting = {name for name, future in self._waiting.items() if not future.done()}
        if waiting and waiting >= self._active:
            if self._chosen not in waiting or self._chance.randrange(self._patience) == 0:
                self._chosen = self._chance.choice(sorted(waiting))
            self._waiting[self._chosen].set_result(None)
