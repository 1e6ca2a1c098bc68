"""The ports: what the shells need of the store. `runstore.adapters` has them over Redis; one contract suite tests each.

Every method may raise StoreUnavailable, within the timeout of the configuration.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from runstore.core.cursor import FeedSight, Place
from runstore.core.event import EntryId, OutputRef
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.wire.feed import FeedEntry, Mark
from runstore.wire.record import Record


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing asks for. None or empty means any; `projects` is what the caller may read and wants.

    Units: times in microseconds since 1970 UTC, all exclusive.
    """

    projects: frozenset[str] | None = None
    statuses: frozenset[Status] = frozenset()
    commit_sha: str | None = None
    tags: frozenset[str] = frozenset()
    created_after_us: int | None = None
    created_before_us: int | None = None
    finished_after_us: int | None = None


class ListPosition(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where a walk stands: all that is newer was shown (order: created_ms, then packed id, both descending)."""

    created_ms: int
    packed_id: bytes


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a walk; `next_position` None: there is nothing after it."""

    runs: tuple[Run, ...]
    next_position: ListPosition | None


class Runs(Protocol):
    """Read what was projected."""

    async def get_many(self, run_ids: Sequence[RunId]) -> list[Record | None]:
        """Get the records of runs, in order, without their histories."""
        ...

    @property
    def has_archive(self) -> bool:
        """Whether runs may have left for an archive."""
        ...

    async def get_archived(self, run_id: RunId, projects: frozenset[str] | None = None) -> Record | None:
        """Get the record of a run that `get_many` did not find, out of the archive of some projects (None: all).

        It may take its time; of projects that are not asked for, not even that tells.
        """
        ...

    def forget_archived(self) -> None:
        """Forget what is kept of archived runs: one may have been erased."""
        ...

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        """Get the kept events of a run, in stream order; empty for an unknown run."""
        ...

    async def find(self, digits: str, projects: frozenset[str] | None, limit: int) -> list[RunId]:
        """Find runs by 4 to 32 hex digits among the projects (None: all), at most `limit`, in order of id."""
        ...

    async def list_runs(self, query: ListQuery, position: ListPosition | None, limit: int) -> ListPage:
        """List runs, newest first, from a position on. A page may be short of `limit` where filters are narrow."""
        ...


class Outputs(Protocol):
    """Outputs beside the log."""

    async def write(self, run_id: RunId, output: bytes, *, token: bytes | None = None) -> OutputRef:
        """Write a whole output (compact JSON of the five fields) and its capped view, to expire unless committed."""
        ...

    async def view(self, run_id: RunId, ref: OutputRef) -> bytes | None:
        """Get the capped view, at most 1 MiB; None where it has expired."""
        ...

    def read(self, run_id: RunId, ref: OutputRef, start: int, stop: int) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop` of the full payload, chunk by chunk."""
        ...


class Log(Protocol):
    """The event streams."""

    @property
    def partitions(self) -> int:
        """How many partitions the store has."""
        ...

    async def append(self, run_id: RunId, event: bytes, *, may_write: frozenset[str] | None = None) -> EntryId:
        """Append an event to its run's partition; when this returns it is durable as the setting says."""
        ...

    async def epoch(self, partition: int) -> bytes:
        """Return the partition's epoch (made when the partition is first touched)."""
        ...


class Feed(Protocol):
    """The feeds that the projector writes and gateways tail."""

    @property
    def has_mark(self) -> bool:
        """Whether commits are told only once they are known to be as durable as the setting says."""
        ...

    async def tail(self) -> list[tuple[Place, FeedEntry | None]]:
        """Return the newest place of every partition that may be told, with its feed entry (None: none is known)."""
        ...

    async def wait(
        self, places: Mapping[int, int], block_ms: int, marks: Mapping[int, int] | None = None
    ) -> list[tuple[int, FeedEntry | Mark]]:
        """Wait for feed entries after the numbers, by partition, and for marks after those of `marks`.

        Entries come before marks. Empty when `block_ms` passed without any.
        """
        ...

    async def newest(self, partitions: Collection[int]) -> dict[int, Mark]:
        """Return the newest commit of partitions, whether it may be told or not."""
        ...

    async def read(self, partition: int, after: int, upto: int) -> list[FeedEntry]:
        """Read the kept entries with numbers in (after, upto], in order."""
        ...

    async def sight(self, place: Place) -> FeedSight:
        """See what the feed says about a place (for `core.cursor.judge`)."""
        ...

    async def store_id(self) -> bytes | None:
        """Return the id that the store was given when it was created; None where somebody has emptied it."""
        ...


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API token as it is stored: never the token itself."""

    name: str
    hash: str
    scopes: tuple[Scope, ...]
    projects: tuple[str, ...] | None
    created_at_s: int
    expires_at_s: int | None = None


class Tokens(Protocol):
    """API tokens by name."""

    async def put(self, token: TokenRecord) -> bool:
        """Store a token; false where the name is taken."""
        ...

    async def list_tokens(self) -> list[TokenRecord]:
        """List all tokens by name."""
        ...

    async def revoke(self, name: str) -> bool:
        """Forget a token; false where there is none by that name."""
        ...


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that run tokens are signed with."""

    key_id: bytes
    secret: bytes
    created_at_s: int


class SigningKeys(Protocol):
    """The keys that run tokens are signed with, the same for all gateways of the store."""

    async def list_keys(self) -> list[SigningKey]:
        """List the keys that are kept."""
        ...

    async def renew(self, key_id: bytes, secret: bytes, *, rotate_s: int, keep_s: int) -> list[SigningKey]:
        """Take a new key where the newest is older than `rotate_s`, forget those older than `keep_s`; list the rest."""
        ...


class Served(Protocol):
    """Which projects workers serve, and control of the runs they hold."""

    async def projects_served(self) -> frozenset[str]:
        """Return the projects that a worker registered within the last seven days."""
        ...

    async def ask_cancel(self, run_id: RunId) -> bool:
        """Ask the worker that holds the run to cancel it; false where none does."""
        ...


class LogChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a run's output streams as it came. `after` resumes a read behind it."""

    after: str
    stream: str
    data: bytes


class RunLogs(Protocol):
    """stdout and stderr of runs, as they come; bounded, and gone some time after the end."""

    async def append_logs(self, run_id: RunId, chunks: Sequence[tuple[str, bytes]]) -> None:
        """Append pieces, each of stream `stdout` or `stderr` and at most 16 KiB."""
        ...

    async def read_logs(self, run_id: RunId, after: str, block_ms: int) -> list[LogChunk]:
        """Read pieces after a place (`0` is the beginning), waiting up to `block_ms` (0: not at all) for one."""
        ...


class LeftRuns(Protocol):
    """Runs that left the store for an archive, or were erased."""

    async def is_known(self, run_id: RunId, projects: Collection[str]) -> bool:
        """Whether a run, which is one of these projects' if any's, left or was erased."""
        ...
