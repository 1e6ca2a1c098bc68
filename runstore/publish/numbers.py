"""What waits on this machine for a store, as the table of metrics names it: for a worker, or for any publisher."""

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runstore.background import off_loop
from runstore.metrics.samples import Sample
from runstore.publish.config import PublisherConfig
from runstore.publish.spools import spool_folder, waiting

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def spools_of(redis_url: str) -> Callable[[], Awaitable[list[Sample]]]:
    """Make what counts, in a thread, what waits on this machine for one store."""
    folder = spool_folder(redis_url, PublisherConfig())

    async def look() -> list[Sample]:
        return await off_loop(count_spools, folder)

    return look


def count_spools(folder: Path) -> list[Sample]:
    """Count what waits in a folder and those beneath it. Blocks for as long as it reads the spool files."""
    events, size = {"yes": 0, "no": 0}, {"yes": 0, "no": 0}
    for each in waiting(folder):
        held = "yes" if each.held else "no"
        events[held] += each.events
        size[held] += each.bytes
    return [
        *(Sample("runstore_spool_events", number, (held,)) for held, number in events.items()),
        *(Sample("runstore_spool_bytes", number, (held,)) for held, number in size.items()),
    ]


class SpoolCollector:
    """The same for a program that publishes and has a registry of its own: `REGISTRY.register(SpoolCollector(url))`."""

    def __init__(self, redis_url: str | None = None, config: PublisherConfig | None = None) -> None:
        """`redis_url` is the store that is counted for; unset: RUNSTORE_REDIS_URL."""
        self._folder = spool_folder(redis_url or os.environ.get("RUNSTORE_REDIS_URL", ""), config or PublisherConfig())

    def collect(self) -> "Iterator[Metric]":
        """Count what waits, for prometheus-client."""
        from runstore.metrics.numbers import as_metrics
        from runstore.metrics.samples import put_together

        return as_metrics(put_together(count_spools(self._folder)))
