"""The numbers of one process, with those of its fellows: gathered when somebody asks, and given out as text.

What is counted on the way of a run are plain integers; sources read them here. What must be asked of the store or of
the disk is looked at before an answer, and no more often than every few seconds; where the store is away it is left
out, for an old number would be taken for a new one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from runstore.core.errors import RunstoreError
from runstore.core.tally import Tally
from runstore.metrics.board import Board
from runstore.metrics.samples import Sample, Snapshot, pack, put_together, unpack
from runstore.metrics.table import BY_NAME, FAMILIES

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.process_collector import ProcessCollector

Source = Callable[[], Iterable[Sample]]
Look = Callable[[], Awaitable[Iterable[Sample]]]
_FRESH_S: Final = 2.0
_POST_EVERY_S: Final = 1.0
_LOOK_EVERY_S: Final = 5.0
_log = logging.getLogger("runstore.metrics")


class Numbers:
    """The numbers of one process. With a `board`, `seat` is its place among its fellows."""

    def __init__(self, board: Board | None = None, seat: int = 0) -> None:
        self._board = board
        self._seat = seat
        self._sources: list[Source] = []
        self._looks: list[Look] = []
        self._seen: list[Sample] = []
        self._seen_at_s = float("-inf")
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._process: ProcessCollector | None = None

    def add(self, source: Source) -> None:
        """Read this at each answer."""
        self._sources.append(source)

    def add_look(self, look: Look) -> None:
        """Look at this before an answer; what it raises of ours leaves its numbers out."""
        self._looks.append(look)

    async def start(self) -> None:
        """Begin to tell the numbers to the fellows, if there are any."""
        if self._board is not None and self._task is None:
            self._post()
            self._task = asyncio.create_task(self._post_forever(), name="runstore-metrics")

    async def stop(self) -> None:
        """Stop; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait(self) -> None:
        """Return when it was stopped. Raises: what ended it."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Write the numbers as Prometheus reads them, with the media type that fits what it accepts.

        Raises: Unreadable where a fellow has not told its numbers.
        """
        from prometheus_client.exposition import choose_encoder

        await self._look(_FRESH_S)
        encode, media = choose_encoder(accept)
        return encode(_Answer(self._all())), media

    def snapshot(self) -> Snapshot:
        """Return the numbers of this process and its fellows, as they are known now. Raises: Unreadable."""
        return self._all()

    def _own(self) -> Iterator[Sample]:
        for source in self._sources:
            yield from source()
        yield from self._seen
        yield from self._of_process()

    def _all(self) -> Snapshot:
        if self._board is None:
            return put_together(self._own())
        self._post()
        told = (unpack(self._board.read(seat)) for seat in range(self._board.seats))
        return put_together(sample for samples in told for sample in samples)

    def _post(self) -> None:
        assert self._board is not None
        self._board.write(self._seat, pack(self._own()))

    async def _post_forever(self) -> None:
        while True:
            await asyncio.sleep(_POST_EVERY_S)
            await self._look(_LOOK_EVERY_S)
            self._post()

    async def _look(self, fresh_s: float) -> None:
        async with self._looking:
            if monotonic() - self._seen_at_s < fresh_s:
                return
            answers = await asyncio.gather(*(look() for look in self._looks), return_exceptions=True)
            self._seen = []
            for answer in answers:
                if isinstance(answer, (RunstoreError, TimeoutError, OSError)):
                    _log.warning("look_failed", extra={"reason": str(answer)[:200]})
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    self._seen += answer
            self._seen_at_s = monotonic()

    def _of_process(self) -> Iterator[Sample]:
        from prometheus_client import CollectorRegistry
        from prometheus_client.process_collector import ProcessCollector

        if self._process is None:
            self._process = ProcessCollector(registry=CollectorRegistry())
        for metric in self._process.collect():
            for sample in metric.samples:
                if sample.name in BY_NAME:
                    yield Sample(sample.name, sample.value)


class _Answer:
    """One answer, in the shape of the registry that prometheus-client writes out."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> "Iterator[Metric]":
        return as_metrics(self._snapshot)


def as_metrics(snapshot: Snapshot) -> "Iterator[Metric]":
    """Write numbers as prometheus-client has them, in the order of the table."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    told: dict[str, Any] = {
        family.name: kinds[family.kind](family.name, family.help, labels=tuple(family.labels)) for family in FAMILIES
    }
    for (name, labels), value in sorted(snapshot.items(), key=lambda each: each[0]):
        if isinstance(value, Tally):
            told[name].add_metric(labels, _buckets(value), value.total)
        else:
            told[name].add_metric(labels, value)
    return (metric for metric in told.values() if metric.samples)


def _buckets(tally: Tally) -> list[tuple[str, int]]:
    below, buckets = 0, []
    for bound, count in zip((*map(str, tally.bounds), "+Inf"), tally.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets
