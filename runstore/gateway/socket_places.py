"""Resuming: what a client's cursor says about each partition, and from where on to read the feed again."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from runstore.core.cursor import Cursor, Place, Standing, certain_ms
from runstore.core.ids import RunId
from runstore.core.times import to_iso
from runstore.feed import FeedTail, Push

ENTRIES_A_READ: Final = 32
_LATEST_MS: Final = 253_402_300_799_000
BAD: Final = frozenset({Standing.LOST, Standing.GAP})


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go on: the feed place of each partition, and what cannot be told.

    `told` is the cursor to show before anything is pushed; `since` is set where some place is bad.
    """

    places: dict[int, Place]
    told: Cursor
    since: str | None = None


async def resume(tail: FeedTail, cursor: Cursor, partitions: Iterable[int]) -> Resumption:
    """Judge a client's cursor for some partitions; a partition that it does not name goes on from now.

    Needs: a client that is told of every rollback from now on.

    Raises: StoreUnavailable.
    """
    named = {place.partition: place for place in cursor}
    now = {partition: tail.place(partition) for partition in partitions}
    ours = tuple(place for partition, place in named.items() if partition in now)
    standings = await tail.judge_for_listener(ours)
    places, bad = dict(now), [place for place in cursor if place.partition >= tail.partitions]
    for place in ours:
        partition, standing = place.partition, standings[place.partition]
        found = await _locate(tail, place, standing, now[partition])
        if found is None:
            bad.append(place)
        else:
            places[partition] = found
    return Resumption(
        places=places,
        told=tuple(named.get(partition, place) for partition, place in now.items()),
        since=since_of(bad, tail.config.rollback_slack_s, beside=cursor) if bad else None,
    )


async def replay(
    tail: FeedTail, places: Mapping[int, Place], run_ids: frozenset[RunId]
) -> tuple[list[Push], frozenset[int]]:
    """Read the changes of some runs after the places; the partitions where some were trimmed come with them.

    Raises: StoreUnavailable.
    """
    pushes: list[Push] = []
    cut: set[int] = set()
    for partition, place in places.items():
        at = place.n
        while at < (upto := tail.place(partition).n):
            entries = await tail.read(partition, at, min(upto, at + ENTRIES_A_READ))
            if not entries or entries[0].n != at + 1:
                cut.add(partition)
                break
            for entry in entries:
                pushes += [p for p in tail.pushes(partition, entry, wanted_only=False) if p.run.run_id in run_ids]
            at = entries[-1].n
    return pushes, frozenset(cut)


def since_of(places: Iterable[Place], slack_s: float, *, beside: Iterable[Place] = ()) -> str:
    """Say from when on to catch up after some places of a cursor were lost: 1970 where nothing is known about them."""
    return to_iso(int(max(0, min(certain_ms(places, beside) - slack_s * 1000, _LATEST_MS))) * 1000)


async def _locate(tail: FeedTail, place: Place, standing: Standing, now: Place) -> Place | None:
    if standing in BAD:
        return None
    if place.entry is None:
        return place
    if standing is Standing.AHEAD or now.n == 0:
        return now
    low, high = 0, now.n
    while low < high:
        middle = (low + high + 1) // 2
        entries = await tail.read(now.partition, middle - 1, middle)
        if entries and entries[0].entry > place.entry:
            high = middle - 1
        else:
            low = middle
    entries = await tail.read(now.partition, low - 1, low) if low else []
    if low and not entries:
        return None
    return tail.place_of(now.partition, entries[0]) if entries else msgspec.structs.replace(now, n=0, nonce=b"")
