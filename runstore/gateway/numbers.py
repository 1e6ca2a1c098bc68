"""The numbers of a gateway, as the table of metrics names them."""

from collections.abc import Callable, Iterator

from runstore.gateway.context import Services
from runstore.metrics.samples import Sample
from runstore.metrics.table import STATUS_CLASSES

Source = Callable[[], Iterator[Sample]]


def numbers_of(services: Services) -> Source:
    """Make what reads the numbers of a gateway."""

    def read() -> Iterator[Sample]:
        yield from _of_requests(services)
        yield from _of_pushes(services)
        yield from _of_lookups(services)
        yield from _of_feed(services)

    return read


def _of_requests(services: Services) -> Iterator[Sample]:
    counts = services.counts
    for (method, route), row in (*counts.rows.items(), (("none", "none"), counts.nowhere)):
        # the zeros too: Prometheus sees no first error of a series that begins with it
        for name, answered in zip(STATUS_CLASSES, row[1:], strict=True):
            yield Sample("runstore_http_requests_total", answered, (method, route, name))
    yield Sample("runstore_rate_limited_total", counts.requests_refused, ("request",))
    yield Sample("runstore_rate_limited_total", counts.messages_refused, ("message",))
    yield Sample("runstore_rate_limited_total", counts.connections_refused, ("connection",))


def _of_pushes(services: Services) -> Iterator[Sample]:
    counts = services.counts
    yield Sample("runstore_sockets", counts.sockets)
    yield Sample("runstore_streams", counts.streams)
    yield Sample("runstore_subscriptions", counts.subscriptions)
    yield Sample("runstore_subscribed_runs", len(services.subscribed))
    yield Sample("runstore_pushes_total", counts.websocket_pushes, ("websocket",))
    yield Sample("runstore_pushes_total", counts.stream_pushes, ("stream",))
    yield Sample("runstore_push_delay_seconds", services.tail.delay)
    yield Sample("runstore_slow_readers_closed_total", counts.slow_readers)


def _of_lookups(services: Services) -> Iterator[Sample]:
    lookup = services.lookup
    yield Sample("runstore_lookups_total", lookup.counts.kept, ("cache", "found"))
    yield Sample("runstore_lookups_total", lookup.counts.found, ("redis", "found"))
    yield Sample("runstore_lookups_total", lookup.counts.absent, ("redis", "absent"))
    yield Sample("runstore_lookups_total", lookup.counts.failed, ("redis", "failed"))
    yield Sample("runstore_lookups_total", lookup.counts.archive_found, ("archive", "found"))
    yield Sample("runstore_lookups_total", lookup.counts.archive_absent, ("archive", "absent"))
    yield Sample("runstore_lookups_total", lookup.counts.archive_failed, ("archive", "failed"))
    yield Sample("runstore_lookup_cache_bytes", lookup.kept_bytes)


def _of_feed(services: Services) -> Iterator[Sample]:
    tail, readiness = services.tail, services.readiness
    yield Sample("runstore_feed_entries_total", tail.entries)
    yield Sample("runstore_feed_connected", float(tail.is_connected))
    yield Sample("runstore_feed_failures_total", tail.failures)
    yield Sample("runstore_feed_rollbacks_total", tail.rollbacks)
    yield Sample("runstore_feed_lag_entries", readiness.untold_entries)
    yield Sample("runstore_feed_lag_seconds", readiness.untold_s)
    yield Sample("runstore_partitions_behind", readiness.partitions_behind)
    yield Sample("runstore_ready", float(not readiness.reason and not services.stopping.is_set()))
