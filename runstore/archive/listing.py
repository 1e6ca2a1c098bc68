"""Listings out of the archive: the runs of one stretch of the order, newest first, by the index.

Days and the objects in them are named so that the newest come first. They are read from there on until the page is full
and nothing that was not read could still belong on it, or until enough was read for one request.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from runstore.adapters.listing import matches
from runstore.archive.archive import Archive
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.core.run import Run
from runstore.ports import ListPosition, ListQuery
from runstore.wire.archive import DAY_MS, Rows, Segment, day_of

MOST_SEGMENTS: Final = 96
_SEGMENTS_AT_ONCE: Final = 8
_LATEST_MS: Final = 2**62


class Stretch(NamedTuple):
    """Runs of the archive, newest first, and down to where that is all of them (None: to the end)."""

    runs: list[Run]
    down_to: ListPosition | None


def order_of(run: Run) -> tuple[int, bytes]:
    """Return a run's place in the order of listings; greater is newer."""
    return run.created_ms, to_bytes(run.run_id)


async def list_archived(
    archive: Archive,
    newest_ms: Mapping[str, int],
    query: ListQuery,
    *,
    below: ListPosition | None,
    floor: ListPosition | None,
    limit: int,
) -> Stretch:
    """List archived runs of some projects that a query asks for, between two places (`floor` included).

    `newest_ms` is when the newest run of each project was created.

    Raises: StoreUnavailable.
    """
    top_ms = below.created_ms if below is not None else _LATEST_MS
    if query.created_before_us is not None:
        top_ms = min(top_ms, -(-query.created_before_us // 1000))
    least_ms = max(floor.created_ms if floor is not None else 0, 0)
    if query.created_after_us is not None:
        least_ms = max(least_ms, query.created_after_us // 1000)
    names = [name for name, ms in newest_ms.items() if ms >= least_ms]
    days = dict(zip(names, await asyncio.gather(*map(archive.days, names)), strict=True))
    wanted = sorted(set(chain.from_iterable(days.values())), reverse=True)
    found: dict[tuple[int, bytes], Run] = {}
    read = 0
    for day in wanted:
        if day > day_of(min(top_ms, _LATEST_MS)) or day < day_of(least_ms):
            continue
        there = [name for name in names if day in days[name]]
        segments = await _segments(archive, there, day, query, top_ms=top_ms, least_ms=least_ms)
        while segments:
            next_ms = segments[0].newest_ms
            # what lies across the place to go on from must all be read, or the walk would stand still
            is_enough = read >= MOST_SEGMENTS and next_ms + 1 < top_ms
            if is_enough or sum(ms > next_ms for ms, _ in found) >= limit:
                return _cut(found, ListPosition(created_ms=next_ms + 1, packed_id=b""), limit)
            part, segments = segments[:_SEGMENTS_AT_ONCE], segments[_SEGMENTS_AT_ONCE:]
            read += len(part)
            for rows in await asyncio.gather(*(_rows(archive, segment) for segment in part)):
                _take(found, rows, query, below, floor)
        if len(found) >= limit or read >= MOST_SEGMENTS:
            begin_ms = day * DAY_MS
            return _cut(found, ListPosition(created_ms=begin_ms, packed_id=b""), limit)
    return _cut(found, None, limit)


async def complete(archive: Archive, run: Run, cut: frozenset[RunId]) -> Run:
    """Return a row with the error message that the index leaves out. Raises: StoreUnavailable."""
    if run.run_id not in cut:
        return run
    head = await archive.head(run.project_name, run.run_id)
    return head.record.run if head is not None else run


async def _segments(
    archive: Archive, names: Sequence[str], day: int, query: ListQuery, *, top_ms: int, least_ms: int
) -> list[Segment]:
    told = await asyncio.gather(*(archive.segments(name, day) for name in names))
    after_ms = query.finished_after_us // 1000 if query.finished_after_us is not None else 0
    return sorted(
        (
            segment
            for segment in chain.from_iterable(told)
            if segment.oldest_ms <= top_ms and segment.newest_ms >= least_ms and segment.end_ms >= after_ms
        ),
        key=lambda segment: segment.newest_ms,
        reverse=True,
    )


async def _rows(archive: Archive, segment: Segment) -> Rows:
    rows = await archive.rows(segment)
    if rows is None:
        raise StoreUnavailable("the index of the archive changes while it is read: try again")
    if not rows.cut:
        return rows
    cut = frozenset(map(from_bytes, rows.cut))
    runs = await asyncio.gather(*(complete(archive, run, cut) for run in rows.runs))
    return Rows(tuple(runs))


def _take(
    found: dict[tuple[int, bytes], Run],
    rows: Rows,
    query: ListQuery,
    below: ListPosition | None,
    floor: ListPosition | None,
) -> None:
    for run in rows.runs:
        place = order_of(run)
        is_between = (below is None or place < _place(below)) and (floor is None or place >= _place(floor))
        if is_between and matches(run, query):
            found[place] = run


def _cut(found: dict[tuple[int, bytes], Run], down_to: ListPosition | None, limit: int) -> Stretch:
    order = sorted((place for place in found if down_to is None or place >= _place(down_to)), reverse=True)
    shown = order[:limit]
    if len(order) > limit:
        down_to = ListPosition(created_ms=shown[-1][0], packed_id=shown[-1][1])
    return Stretch([found[place] for place in shown], down_to)


def _place(position: ListPosition) -> tuple[int, bytes]:
    return position.created_ms, position.packed_id


def merge(
    fresh: Sequence[Run], archived: Sequence[Run], bounds: Sequence[ListPosition | None], limit: int
) -> tuple[list[Run], ListPosition | None]:
    """Merge a page of Redis with one of the archive: each run once, as far down as both are complete."""
    places = [_place(bound) for bound in bounds if bound is not None]
    down_to = max(places, default=None)
    runs = {order_of(run): run for run in chain(archived, fresh)}
    order = sorted((place for place in runs if down_to is None or place >= down_to), reverse=True)
    if len(order) > limit:
        order = order[:limit]
        down_to = order[-1]
    position = ListPosition(created_ms=down_to[0], packed_id=down_to[1]) if down_to is not None else None
    return [runs[place] for place in order], position
