"""Defects that the checker must find, each put into the real projector or gateway while its process starts."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from runstore.adapters import commit as commits
from runstore.adapters.connection import Script
from runstore.feed import hub
from runstore.gateway import outbox, socket_connection, socket_runs
from runstore.projection import partition
from runstore.projector import Projector

MUTATIONS: Final[dict[str, Callable[[], None]]] = {}


def _mutation(put_in: Callable[[], None]) -> Callable[[], None]:
    MUTATIONS[put_in.__name__.replace("_", "-")] = put_in
    return put_in


@_mutation
def apply_twice() -> None:
    """A batch is folded and committed, and then once more."""
    once = partition.PartitionProjector._project

    async def twice(self: Any, standing: Any, rows: Any) -> None:
        await once(self, standing, rows)
        await once(self, standing, rows)

    partition.PartitionProjector._project = twice


@_mutation
def skip_the_cursor_check() -> None:
    """The commit is written whatever the cursor is by now, behind whatever the feed holds."""
    lua = commits._COMMIT.lua
    check = "if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return {'lost'} end\n"
    assert check in lua
    number = "ARGV[3] = tostring((tonumber(redis.call('HGET', KEYS[1], 'n')) or 0) + 1)\n"
    commits._COMMIT = Script(lua.replace(check, number))


@_mutation
def push_before_commit() -> None:
    """The feed tells of a commit a moment before it is written."""
    told = "local told = redis.pcall('XADD', KEYS[2], ARGV[3] .. '-0', 'c', ARGV[5])\n"
    assert told in commits._COMMIT.lua
    whole, first = commits._COMMIT.lua, commits._COMMIT.lua.index(told)
    check = whole[: whole.index("\n") + 1]
    tells = Script(check + told + "return 1")
    writes = Script(whole[:first] + "local told = 0\n" + whole[first + len(told) :])
    real = partition.commit

    async def commit(client: Any, keys: Any, **about: Any) -> Any:
        args = [about["expected"], about["nonce"], about["n"], str(about["entry"]), about["feed"]]
        await tells.run(client, [keys.cursor, keys.feed], args)
        await asyncio.sleep(0.05)
        return await real(client, keys, **about)

    commits._COMMIT = writes
    partition.commit = commit


@_mutation
def look_before_join() -> None:
    """A subscription to runs looks them up, and joins the feed only then."""
    join = hub.Hub.join
    late: dict[Any, Callable[[], None]] = {}

    def join_later(self: Any, listener: Any, **interest: Any) -> None:
        if isinstance(listener, socket_runs.RunsSubscription):
            late[listener] = lambda: join(self, listener, **interest)
        else:
            join(self, listener, **interest)

    look = socket_runs.RunsSubscription._look

    async def look_first(self: Any, run_ids: Any) -> Any:
        found = await look(self, run_ids)
        if self in late:
            await asyncio.sleep(0.05)
            late.pop(self)()
        return found

    hub.Hub.join = join_later
    socket_runs.RunsSubscription._look = look_first


@_mutation
def small_outbox() -> None:
    """No defect: outboxes are so small that they are often full, and nothing goes past them."""
    begin = outbox.Outbox.__init__

    def small(self: Any, _: int) -> None:
        begin(self, 3_000)

    outbox.Outbox.__init__ = small
    socket_connection.Connection._go_at_once = lambda self, messages: False


@_mutation
def drop_on_a_full_outbox() -> None:
    """What does not fit into an outbox is dropped, and nobody told."""
    small_outbox()
    offer = outbox.Outbox.offer

    def drop(self: Any, message: Any, key: Any = None) -> bool:
        offer(self, message, key)
        return True

    outbox.Outbox.offer = drop


@_mutation
def trust_a_stale_lease() -> None:
    """A projector that once held a partition brings its cursor up to date without reading anew, and commits."""
    real = partition.commit

    async def commit(client: Any, keys: Any, **about: Any) -> Any:
        nonce, n = await client.execute_command("HMGET", keys.cursor, "nonce", "n")
        if nonce != about["expected"]:
            about |= {"expected": nonce, "n": int(n) + 1}
        return await real(client, keys, **about)

    partition.commit = commit

    async def share_never(self: Any) -> None:
        self._owned = set(range(self._store.meta.partitions))

    Projector._share = share_never
