"""Names of the keys in Redis. A partition's keys share its hash tag, so that no command of it crosses a slot."""

from typing import Final

META: Final = "runstore:meta"
TOKENS: Final = "runstore:tokens"
RUN_TOKEN_KEYS: Final = "runstore:run_token_keys"  # noqa: S105 - a name
PROJECTS_SERVED: Final = "runstore:served"
PROJECTORS: Final = "runstore:projectors"
PAGE_RUNS: Final = 100
"""How many runs a page of the listing holds."""

ARCHIVER: Final = "runstore:archiver"
ERASER: Final = "runstore:eraser"


class PartitionKeys:
    """The keys of one partition, as bytes. A run's own keys end in the 16 bytes of its id."""

    def __init__(self, partition: int) -> None:
        head = b"runstore:{%d}:" % partition
        self.partition = partition
        self.events = head + b"events"
        self.spare = head + b"spare"
        self.cursor = head + b"cursor"
        self.feed = head + b"feed"
        self.mark = head + b"mark"
        self.dead = head + b"dead"
        self.stats = head + b"stats"
        self.projects = head + b"projects"
        self.owner = head + b"owner"
        self.offers = head + b"offers"
        self.leases = head + b"leases"
        self.deadlines = head + b"deadlines"
        self.queue_deadlines = head + b"queue_deadlines"
        self.controls = head + b"controls"
        self.archived = head + b"archived"
        self.restored = head + b"restored"
        self._head = head

    def run(self, packed_id: bytes) -> bytes:
        """Hash: the run's record and history."""
        return self._head + b"r:" + packed_id

    def ids(self, project_name: str, digits: str) -> bytes:
        """Sorted set of packed ids that begin with three hex digits, of one project: a prefix touches one of these."""
        return self._head + b"i:" + digits[:3].encode() + b":" + project_name.encode()

    def page(self, project_name: str, page: int) -> bytes:
        """Sorted set of up to 100 packed ids of one project, scored by when they were created (ms)."""
        return self._head + b"t:%d:" % page + project_name.encode()

    def pages(self, project_name: str) -> bytes:
        """Sorted set of a project's page numbers, scored by when the first run of the page was created (ms)."""
        return self._head + b"tp:" + project_name.encode()

    def finished(self, project_name: str) -> bytes:
        """Sorted set of a project's page numbers, scored by the latest end of any run of the page (ms)."""
        return self._head + b"tf:" + project_name.encode()

    def status(self, project_name: str, status: str) -> bytes:
        """Sorted set of packed ids of one project in any one status but `success`, scored by creation (ms)."""
        return self._head + b"s:" + status.encode() + b":" + project_name.encode()

    def output(self, packed_id: bytes, token: bytes, part: str) -> bytes:
        """String: one part of an output, `v` for the capped view, `0`, `1` … for the chunks of the full payload."""
        return self._head + b"o:" + packed_id + b":" + token + b":" + part.encode()

    def sieve(self, layer: int) -> bytes:
        """String: one layer of the filter that knows which ids may be in the archive."""
        return self._head + b"b:%d" % layer

    def request(self, packed_id: bytes) -> bytes:
        """String: what a worker needs to execute the run; gone when the run has ended."""
        return self._head + b"q:" + packed_id

    def queue(self, project_name: str) -> bytes:
        """Sorted set of packed ids that wait for a worker, scored by creation (ms)."""
        return self._head + b"w:" + project_name.encode()

    def lease(self, packed_id: bytes) -> bytes:
        """Hash: who holds the run, on which attempt, and whether it was asked to cancel."""
        return self._head + b"l:" + packed_id

    def logs(self, packed_id: bytes) -> bytes:
        """Stream: stdout and stderr as they come, bounded, gone some time after the end."""
        return self._head + b"g:" + packed_id


def numbers(project_name: str) -> bytes:
    """Hash on the project's own slot: its last run number, the reserved ones, and each partition's fence."""
    return b"runstore:{n:" + project_name.encode() + b"}:numbers"
