"""Runs as they were looked up for those who join the feed, until the feed tells something new of them.

A look sees every change that was told before it began, and whatever is committed after it is told after it. So one who
has joined the feed may take what an earlier look saw, unless the feed has told of the run since that look began, and
misses nothing. When a gateway is lost, a crowd comes to the next one with the same runs: each is looked up once.

What a look saw may be behind the store by as much as the feed is. That does for one who hears the feed, and for nobody
else.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from runstore.core.ids import RunId
from runstore.feed.body import Bodies, Body
from runstore.wire.record import Record

_BESIDE_BYTES = 1024
"""What a run is counted for beside its JSON."""

Look = Callable[[RunId], Awaitable[Record | None]]


class Looked:
    """A run as it was looked up, and its JSON, made once for all who are told it."""

    __slots__ = ("body", "record")

    def __init__(self, record: Record, body: Body) -> None:
        self.record = record
        self.body = body


class LookedUp:
    """Looks that are under way, and what was seen last, bounded in bytes. That a run is not known is kept as well."""

    def __init__(self, bodies: Bodies, limit_bytes: int) -> None:
        self._bodies = bodies
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[RunId, Looked | None] = OrderedDict()
        self._looks: dict[RunId, asyncio.Task[Looked | None]] = {}

    def shares(self, run_id: RunId) -> bool:
        """Whether who sees the run now shares what somebody else asked for."""
        return run_id in self._kept or run_id in self._looks

    async def see(self, run_id: RunId, look: Look) -> Looked | None:
        """See a run, or share what was seen of it.

        Needs: a caller who has joined the feed of the run, as the others here have.

        Raises: as `look`.
        """
        if run_id in self._kept:
            self._kept.move_to_end(run_id)
            return self._kept[run_id]
        task = self._looks.get(run_id)
        if task is None:
            task = self._looks[run_id] = asyncio.create_task(self._see(run_id, look))
            task.add_done_callback(lambda done: self._seen(run_id, done))
        return await asyncio.shield(task)

    def told(self, run_id: RunId, n: int) -> None:
        """Take note that the feed told of the run, by its commit `n`."""
        self._looks.pop(run_id, None)
        if run_id in self._kept:
            kept = self._kept[run_id]
            if kept is None or kept.record.version < n:
                self._drop(run_id)

    def forget_all(self) -> None:
        """Let nobody who asks from now on share what was seen before."""
        self._looks.clear()
        self._kept.clear()
        self._held_bytes = 0

    async def _see(self, run_id: RunId, look: Look) -> Looked | None:
        record = await look(run_id)
        return Looked(record, self._bodies.make(record.run)) if record is not None else None

    def _seen(self, run_id: RunId, task: "asyncio.Task[Looked | None]") -> None:
        is_valid = self._looks.get(run_id) is task
        if is_valid:
            del self._looks[run_id]
        # whoever asked raises what went wrong; where all have hung up, nobody needs to hear of it
        if task.cancelled() or task.exception() is not None:
            return
        if is_valid:
            self._kept[run_id] = task.result()
            self._held_bytes += _size(task.result())
            while self._held_bytes > self._limit_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, run_id: RunId) -> None:
        self._held_bytes -= _size(self._kept.pop(run_id))


def _size(looked: Looked | None) -> int:
    return _BESIDE_BYTES + (looked.body.held_bytes(output=False) if looked is not None else 0)
