"""The table of metrics: every family that any process tells, and nothing else. docs/metrics.md is held to it.

Labels have few values, all of them known here or in the table of routes: no run, project, token or address is ever one.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from runstore.core.status import TERMINAL, Status
from runstore.core.tally import DELAY_S

Merge = Literal["sum", "max", "min"]
Kind = Literal["counter", "gauge", "histogram"]

OF_ROUTES: Final = ("the table of routes",)
"""In place of a label's values: methods and addresses of gateway/routes.py, and `none` for what is none of them."""

STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
OUTCOMES: Final = ("applied", "ignored", "refused", "unreadable")
SOURCES: Final = ("cache", "redis", "archive")
FOUND: Final = ("found", "absent", "failed")
FAILURES: Final = ("unanswered", "broken", "refused")
_STATUSES: Final = tuple(status.value for status in Status)
WORKER_OUTCOMES: Final = (*(status.value for status in Status if status in TERMINAL), "lost", "returned")


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. `of` are the roles that tell it; `merge` says what becomes of the numbers of several processes."""

    name: str
    kind: Kind
    help: str
    of: str
    labels: Mapping[str, tuple[str, ...]] = {}
    merge: Merge = "sum"
    bounds: tuple[float, ...] = ()


def _counter(of: str, name: str, help_: str, **labels: tuple[str, ...]) -> Family:
    return Family(name=name, kind="counter", help=help_, of=of, labels=labels)


def _gauge(of: str, name: str, help_: str, *, merge: Merge = "sum", **labels: tuple[str, ...]) -> Family:
    return Family(name=name, kind="gauge", help=help_, of=of, labels=labels, merge=merge)


FAMILIES: Final[tuple[Family, ...]] = (
    _counter(
        "gateway",
        "runstore_http_requests_total",
        "Requests answered; streams and websockets count when they end.",
        method=OF_ROUTES,
        route=OF_ROUTES,
        status=STATUS_CLASSES,
    ),
    _counter(
        "gateway",
        "runstore_rate_limited_total",
        "Requests, websocket messages and connections refused because a caller is over a limit.",
        what=("request", "message", "connection"),
    ),
    _gauge("gateway", "runstore_sockets", "Open websockets."),
    _gauge("gateway", "runstore_streams", "Open SSE streams."),
    _gauge("gateway", "runstore_subscriptions", "Subscriptions on all websockets."),
    _gauge("gateway", "runstore_subscribed_runs", "Runs subscribed to by their ids, each subscription counted."),
    _counter(
        "gateway", "runstore_pushes_total", "Runs and transitions sent to subscribers.", to=("websocket", "stream")
    ),
    Family(
        name="runstore_push_delay_seconds",
        kind="histogram",
        help="Time from a terminal event's place in the log to its push to those who listened.",
        of="gateway",
        bounds=DELAY_S,
    ),
    _counter(
        "gateway",
        "runstore_slow_readers_closed_total",
        "Websockets and streams closed because their client left too much unread.",
    ),
    _counter(
        "gateway",
        "runstore_lookups_total",
        "Look-ups of a run by where the answer came from and what it was.",
        source=SOURCES,
        outcome=FOUND,
    ),
    _gauge("gateway", "runstore_lookup_cache_bytes", "Bytes of answers of ended runs that are kept ready."),
    _counter("gateway", "runstore_feed_entries_total", "Feed entries told, one for each commit of a partition."),
    _gauge("gateway", "runstore_feed_lag_entries", "Feed entries committed and not told yet."),
    _gauge("gateway", "runstore_feed_lag_seconds", "How long a feed's end as it was seen is not reached.", merge="max"),
    _gauge("gateway", "runstore_feed_connected", "Whether the feed is followed.", merge="min"),
    _counter("gateway", "runstore_feed_failures_total", "Failed attempts to follow the feed."),
    _counter("gateway", "runstore_feed_rollbacks_total", "Times that subscribers were told of a reset."),
    _gauge("gateway", "runstore_ready", "Whether /readyz says ready.", merge="min"),
    _gauge(
        "gateway",
        "runstore_partitions_behind",
        "Partitions whose projector does not keep up, as /readyz sees it.",
        merge="max",
    ),
    _counter("projector", "runstore_events_total", "Events folded, by what became of them.", outcome=OUTCOMES),
    _counter(
        "projector",
        "runstore_transitions_total",
        "Transitions of runs by the status that was entered; another attempt is another running.",
        status=_STATUSES,
    ),
    _counter("projector", "runstore_commits_total", "Commits, each of up to a batch of events."),
    _counter("projector", "runstore_projector_failed_turns_total", "Turns of the projector that failed."),
    _gauge("projector", "runstore_projector_partitions", "Partitions that this projector folds at present."),
    _gauge("projector", "runstore_partitions", "Partitions of the store.", merge="max"),
    _gauge(
        "projector",
        "runstore_projector_lag_entries",
        "Events in the log that are not folded, at most 1000 a partition, and fewer where they are large.",
    ),
    _gauge(
        "projector",
        "runstore_projector_lag_seconds",
        "Age of the oldest event that is not folded; 0 if there is none.",
        merge="max",
    ),
    _gauge("projector", "runstore_dead_letters", "Dead letters that are kept."),
    _gauge("projector", "runstore_leases", "Leases on runs, whoever holds them."),
    _gauge(
        "projector",
        "runstore_lease_overdue_seconds",
        "How long the oldest lease is past its end and not dealt with; 0 if none is.",
        merge="max",
    ),
    _gauge(
        "projector",
        "runstore_runs",
        "Runs that have not ended, by status; not told by a store of over 1000 projects.",
        status=("pending", "running"),
    ),
    _counter(
        "projector",
        "runstore_reaped_runs_total",
        "Runs that the reaper ended, or gave to another attempt since their worker was lost.",
        outcome=("retried", "failed", "timed_out", "cancelled"),
    ),
    _counter("projector", "runstore_reaper_failed_turns_total", "Turns of the reaper that failed."),
    _gauge(
        "projector", "runstore_redis_memory_bytes", "Memory that the store's fullest server has in use.", merge="max"
    ),
    _gauge(
        "projector",
        "runstore_redis_memory_limit_bytes",
        "Its maxmemory; not told where none is set.",
        merge="max",
    ),
    _counter(
        "projector",
        "runstore_archived_runs_total",
        "Runs that this process moved into the archive, and tries that failed.",
        outcome=("moved", "failed"),
    ),
    _counter("projector", "runstore_archiver_failed_turns_total", "Turns of the archiver that were broken off."),
    _gauge(
        "projector",
        "runstore_archiver_idle_seconds",
        "Time since a turn of the archiver did all it was to do, or since it started.",
        merge="min",
    ),
    _counter("projector", "runstore_archive_requests_total", "Requests to the object store."),
    _counter("projector", "runstore_archive_failures_total", "Those that failed, or were not answered in time."),
    _gauge("worker", "runstore_worker_runs", "Runs that this worker executes at present."),
    _gauge("worker", "runstore_worker_slots", "Runs that it executes at most."),
    _counter(
        "worker",
        "runstore_worker_runs_total",
        "Runs that this worker is done with; lost: taken from it, returned: given back for another attempt.",
        outcome=WORKER_OUTCOMES,
    ),
    _gauge(
        "worker",
        "runstore_spool_events",
        "Events on this machine's disk that wait for the store; held: by whether a living process has them.",
        merge="max",
        held=("yes", "no"),
    ),
    _gauge("worker", "runstore_spool_bytes", "Bytes of those events.", merge="max", held=("yes", "no")),
    _counter("every role", "runstore_redis_connections_total", "Connections to Redis made."),
    _counter("every role", "runstore_redis_errors_total", "Questions to Redis that failed.", kind=FAILURES),
    _counter("every role", "process_cpu_seconds_total", "Processor time spent."),
    _gauge("every role", "process_resident_memory_bytes", "Resident memory."),
    _gauge("every role", "process_open_fds", "Open file descriptors."),
    _gauge("every role", "process_max_fds", "File descriptors that may be open in one process.", merge="min"),
    _gauge("every role", "process_start_time_seconds", "When the process started, since 1970 UTC.", merge="min"),
)

BY_NAME: Final[Mapping[str, Family]] = {family.name: family for family in FAMILIES}
