"""What this process had to do with Redis, as the table of metrics names it."""

from collections.abc import Iterator

from runstore.adapters.connection import COUNTS
from runstore.metrics.samples import Sample


def redis_numbers() -> Iterator[Sample]:
    """Read the numbers of all clients of this process together."""
    yield Sample("runstore_redis_connections_total", COUNTS.connections)
    yield Sample("runstore_redis_errors_total", COUNTS.unanswered, ("unanswered",))
    yield Sample("runstore_redis_errors_total", COUNTS.broken, ("broken",))
    yield Sample("runstore_redis_errors_total", COUNTS.refused, ("refused",))
