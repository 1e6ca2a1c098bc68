"""The numbers of a projector and its reaper, as the table of metrics names them."""

from collections.abc import Awaitable, Callable, Iterator

from runstore.adapters.census import Counting
from runstore.core.status import Status
from runstore.metrics.samples import Sample
from runstore.metrics.table import OUTCOMES
from runstore.projector import Projector
from runstore.reaper import Reaper

_REAPED = (Status.FAILED, Status.TIMED_OUT, Status.CANCELLED)


def numbers_of(projector: Projector, reaper: Reaper) -> Callable[[], Iterator[Sample]]:
    """Make what reads the numbers of a projector and a reaper."""

    def read() -> Iterator[Sample]:
        parts = projector.parts
        for outcome in OUTCOMES:
            yield Sample("runstore_events_total", sum(part.events[outcome] for part in parts), (outcome,))
        for status in Status:
            entered = sum(part.transitions[status] for part in parts)
            yield Sample("runstore_transitions_total", entered, (status.value,))
        yield Sample("runstore_commits_total", sum(part.commits for part in parts))
        yield Sample("runstore_projector_failed_turns_total", projector.turns_failed)
        yield Sample("runstore_projector_partitions", len(projector.partitions_owned))
        yield Sample("runstore_partitions", len(parts))
        yield Sample("runstore_reaped_runs_total", reaper.retried, ("retried",))
        for status in _REAPED:
            yield Sample("runstore_reaped_runs_total", reaper.ends[status], (status.value,))
        yield Sample("runstore_reaper_failed_turns_total", reaper.turns_failed)

    return read


def census_of(projector: Projector) -> Callable[[], Awaitable[list[Sample]]]:
    """Make what counts in the partitions that a projector folds at the time."""
    counting = Counting(projector.store)

    async def look() -> list[Sample]:
        census = await counting.take(sorted(projector.partitions_owned))
        samples = [
            Sample("runstore_projector_lag_entries", census.waiting),
            Sample("runstore_projector_lag_seconds", census.oldest_waiting_ms / 1000),
            Sample("runstore_dead_letters", census.dead),
            Sample("runstore_leases", census.leases),
            Sample("runstore_lease_overdue_seconds", census.overdue_ms / 1000),
        ]
        for status, number in (census.open_runs or {}).items():
            samples.append(Sample("runstore_runs", number, (status.value,)))
        if census.memory_bytes is not None:
            samples.append(Sample("runstore_redis_memory_bytes", census.memory_bytes))
        if census.memory_limit_bytes is not None:
            samples.append(Sample("runstore_redis_memory_limit_bytes", census.memory_limit_bytes))
        return samples

    return look
