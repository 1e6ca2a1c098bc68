"""The numbers of a worker, as the table of metrics names them."""

from collections.abc import Callable, Iterator

from runstore.metrics.samples import Sample
from runstore.metrics.table import WORKER_OUTCOMES
from runstore_worker.worker import Worker


def numbers_of(worker: Worker) -> Callable[[], Iterator[Sample]]:
    """Make what reads the numbers of a worker."""

    def read() -> Iterator[Sample]:
        yield Sample("runstore_worker_runs", worker.running)
        yield Sample("runstore_worker_slots", worker.slots)
        for outcome in WORKER_OUTCOMES:
            yield Sample("runstore_worker_runs_total", worker.ends[outcome], (outcome,))

    return read
