"""Faults put into the product by hand, each of which the simulation must find."""

from collections.abc import Callable
from typing import Any

import pytest

from runstore.adapters import commit as commits
from runstore.adapters import dispatch, numbers, reaping
from runstore.adapters.connection import Script
from runstore.feed.hub import Hub
from runstore.gateway.outbox import Outbox
from runstore.gateway.socket_runs import RunsSubscription
from runstore.projection import partition
from runstore.projection.partition import PartitionProjector

Mutate = Callable[[pytest.MonkeyPatch], None]
_CHECK = "if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return {'lost'} end"
_FEED = "if type(told) == 'table' and told.err then return {'feed', told.err} end"
_FENCE = "if tonumber(n) > tonumber(ARGV[3]) then return {} end"
_LOOK_AGAIN = "if score ~= tonumber(ARGV[2]) or score > now then return 0 end"
_LEASED = "redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[7])), id)"


def _without(script: Script, *lines: str) -> Script:
    lua = script.lua
    for line in lines:
        assert line in lua
        lua = lua.replace(line, "")
    return Script(lua)


def skip_the_cursor_check(patch: pytest.MonkeyPatch) -> None:
    """Commit whatever the cursor is. The feed's numbers would still tell, so that check goes too."""
    patch.setattr(commits, "_COMMIT", _without(commits._COMMIT, _CHECK, _FEED))


def apply_twice(patch: pytest.MonkeyPatch) -> None:
    """Fold each entry of a batch twice."""
    plain = PartitionProjector._project

    async def twice(self: Any, standing: Any, rows: Any) -> None:
        await plain(self, standing, [row for row in rows for _ in range(2)])

    patch.setattr(PartitionProjector, "_project", twice)


def push_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Tell the feed first, and write the runs after it."""
    plain = partition.commit
    patch.setattr(commits, "_COMMIT", _without(commits._COMMIT, _FEED))

    async def early(client: Any, keys: Any, **told: Any) -> Any:
        await client.execute_command("XADD", keys.feed, f"{told['n']}-0", "c", told["feed"])
        return await plain(client, keys, **told)

    patch.setattr(partition, "commit", early)


def look_before_the_join(patch: pytest.MonkeyPatch) -> None:
    """Look the runs up first, and join the feed after it."""
    join, look = Hub.join, RunsSubscription._look

    def later(self: Any, listener: Any, **asked: Any) -> None:
        if not isinstance(listener, RunsSubscription):
            join(self, listener, **asked)

    async def early(self: Any, run_ids: Any) -> Any:
        found = await look(self, run_ids)
        join(self._reach.tail.hub, self, run_ids=self._joined)
        return found

    patch.setattr(Hub, "join", later)
    patch.setattr(RunsSubscription, "_look", early)


def trust_a_stale_lease(patch: pytest.MonkeyPatch) -> None:
    """End a run by what was seen of its lease some time ago."""
    patch.setattr(reaping, "_END_LEASE", _without(reaping._END_LEASE, _LOOK_AGAIN))


def drop_on_a_full_outbox(patch: pytest.MonkeyPatch) -> None:
    """Say that a message was taken, and drop it."""
    offer = Outbox.offer

    def drop(self: Any, message: Any, key: Any = None) -> bool:
        return len(self) > 0 or offer(self, message, key)

    patch.setattr(Outbox, "offer", drop)


def claim_without_a_lease(patch: pytest.MonkeyPatch) -> None:
    """Take a run out of its queue with nothing that ends when its worker does."""
    patch.setattr(
        dispatch,
        "_CLAIM",
        _without(dispatch._CLAIM, _LEASED, "redis.call('ZADD', KEYS[4], text(now + tonumber(ARGV[8])), id)"),
    )


def reserve_without_the_fence(patch: pytest.MonkeyPatch) -> None:
    """Let a projector that slept through commits of others reserve numbers."""
    patch.setattr(numbers, "_RESERVE", _without(numbers._RESERVE, _FENCE))


def keep_what_was_known(patch: pytest.MonkeyPatch) -> None:
    """Go on with the runs as they were known when the partition was lost to another."""

    def drop(self: Any) -> None:
        self._standing = None

    patch.setattr(PartitionProjector, "drop", drop)


MUTATIONS: dict[str, Mutate] = {
    mutate.__name__.replace("_", " "): mutate
    for mutate in (
        *(skip_the_cursor_check, apply_twice, push_before_the_commit, look_before_the_join, trust_a_stale_lease),
        *(drop_on_a_full_outbox, claim_without_a_lease, reserve_without_the_fence, keep_what_was_known),
    )
}
