"""How fast runs come to a store, out of the pages that list them by when they were created."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from runstore.adapters.connection import StoreClient
from runstore.core.errors import StoreUnavailable
from runstore.wire.keys import PAGE_RUNS, PartitionKeys

_A_DAY_MS: Final = 86_400_000
_LEAST_MS: Final = 6 * 3_600_000
_MOST_LISTS: Final = 20_000
"""Lists of pages, one a project and partition, that are looked at."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How fast runs come. `sheds`: some have left the store already, so that it need not grow.

    Units: `runs_begun` in the last `over_s` seconds, at most a day.
    """

    runs_kept: int
    runs_begun: int
    over_s: float
    sheds: bool


async def grown(client: StoreClient, parts: Sequence[PartitionKeys], now_ms: int) -> Growth | None:
    """Say how fast runs came within the last day. None: too young a store, or too many projects."""
    try:
        return await _grown(client, parts, now_ms)
    except (StoreUnavailable, ValueError, TypeError):
        return None  # keys of the wrong type are somebody else's finding


async def _grown(client: StoreClient, parts: Sequence[PartitionKeys], now_ms: int) -> Growth | None:
    lists: list[tuple[PartitionKeys, str, int]] = []
    for keys in parts:
        flat = await client.execute_command("HGETALL", keys.projects)
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        lists += [(keys, name.decode(), int(count)) for name, count in pairs]
        if len(lists) > _MOST_LISTS:
            return None
    if not lists:
        return None
    first_pages = await _asked(client, [("ZRANGE", keys.pages(name), 0, 0, "WITHSCORES") for keys, name, _ in lists])
    oldest = [_score(rows) for rows in first_pages if rows]
    if not oldest:
        return None
    over_ms = min(_A_DAY_MS, now_ms - round(min(score for _, score in oldest)))
    if over_ms < _LEAST_MS:
        return None
    since_ms = now_ms - over_ms
    new_pages = await _asked(client, [("ZCOUNT", keys.pages(name), since_ms, "+inf") for keys, name, _ in lists])
    # the page that was begun last before that time has runs of both sides of it
    partly = [
        ("ZCOUNT", keys.page(name, max(0, _pages(count) - new - 1)), since_ms, "+inf") if new < _pages(count) else ()
        for (keys, name, count), new in zip(lists, new_pages, strict=True)
    ]
    shared = await _asked(client, [words for words in partly if words])
    begun = sum(shared) + sum(
        count - PAGE_RUNS * max(0, _pages(count) - new)
        for (_, _, count), new in zip(lists, new_pages, strict=True)
        if new
    )
    gone = sum(PAGE_RUNS * page for page, _ in oldest)
    total = sum(count for _, _, count in lists)
    return Growth(runs_kept=max(0, total - gone), runs_begun=begun, over_s=over_ms / 1000, sheds=gone > 0)


def _pages(count: int) -> int:
    return -(-count // PAGE_RUNS)


def _score(rows: Any) -> tuple[int, float]:
    first = rows[0]
    page, score = first if isinstance(first, (tuple, list)) else rows
    return int(page), float(score)


async def _asked(client: StoreClient, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(commands), 500):
        pipe = client.pipeline(transaction=False)
        for words in commands[start : start + 500]:
            pipe.execute_command(*words)
        answers += await pipe.execute()
    return answers
