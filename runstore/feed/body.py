"""The JSON of a run as it is pushed: made once for all sockets, its output fetched once where it did not come along.

A body keeps only what is small. Large outputs lie in one cache bounded in bytes, so that an outbox that nobody reads
holds references, not megabytes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from runstore.core.event import OutputRef
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.wire.views import encode, view_run

FetchView = Callable[[RunId, OutputRef], Awaitable[bytes | None]]
_UNFETCHED_BYTES: Final = 512


class Body:
    """One state of a run, and its JSON with and without its output."""

    __slots__ = ("_bare", "_bodies", "_output", "_whole", "run")

    def __init__(self, run: Run, output: bytes | None, bodies: "Bodies") -> None:
        self.run = run
        self._output = output
        self._bodies = bodies
        self._whole: bytes | None = None
        self._bare: bytes | None = None

    @property
    def output_is_elsewhere(self) -> bool:
        """Whether the output must be fetched before the whole JSON can be made."""
        return self._output is None and self.run.status is Status.SUCCESS and self.run.output is not None

    def bare(self) -> bytes:
        """Return the JSON of the run with `output` null."""
        if self._bare is None:
            self._bare = encode(view_run(self.run, None))
        return self._bare

    def whole(self) -> bytes | None:
        """Return the JSON of the run where nothing has to be fetched for it."""
        if self._whole is None:
            if self.output_is_elsewhere:
                return None
            self._whole = encode(view_run(self.run, self._output)) if self._output is not None else self.bare()
        return self._whole

    async def load(self) -> bytes:
        """Return the JSON of the run, fetching its output where it must.

        Raises: StoreUnavailable.
        """
        whole = self.whole()
        return whole if whole is not None else await self._bodies.load(self.run)

    def held_bytes(self, *, output: bool) -> int:
        """Count what an outbox holds by holding this body."""
        if not output:
            return len(self.bare())
        whole = self.whole()
        return len(whole) if whole is not None else _UNFETCHED_BYTES


class Bodies:
    """Make bodies, and fetch large outputs once however many sockets want them at the same time."""

    def __init__(self, fetch: FetchView, limit_bytes: int) -> None:
        self._fetch = fetch
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[tuple[RunId, bytes], bytes] = OrderedDict()
        self._flights: dict[tuple[RunId, bytes], asyncio.Task[bytes]] = {}

    def make(self, run: Run, output: bytes | None = None) -> Body:
        """Make the body of a run; `output` is the capped view where it is at hand."""
        return Body(run, output, self)

    async def load(self, run: Run) -> bytes:
        """Return the JSON of a run whose output lies elsewhere.

        Raises: StoreUnavailable.
        """
        assert run.output is not None
        key = run.run_id, run.output.token
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._load(key, run))
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def forget(self) -> None:
        """Forget what was fetched, after the store was rolled back."""
        self._cache.clear()
        self._held_bytes = 0

    def close(self) -> None:
        """Cancel what is being fetched."""
        for flight in self._flights.values():
            flight.cancel()

    async def _load(self, key: tuple[RunId, bytes], run: Run) -> bytes:
        assert run.output is not None
        whole = encode(view_run(run, await self._fetch(run.run_id, run.output)))
        self._cache[key] = whole
        self._held_bytes += len(whole)
        while self._held_bytes > self._limit_bytes:
            self._held_bytes -= len(self._cache.popitem(last=False)[1])
        return whole

    def _landed(self, key: tuple[RunId, bytes], flight: asyncio.Task[bytes]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()
