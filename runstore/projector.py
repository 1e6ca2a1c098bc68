"""The projector: reads the log, folds it, and commits what became of the runs, each batch exactly once."""

import asyncio
from contextlib import suppress
from logging import getLogger
from secrets import token_hex
from time import monotonic
from typing import Annotated, Self

import msgspec

from runstore.adapters.mark import get_marks
from runstore.adapters.meta import renew_meta
from runstore.adapters.partition import trim
from runstore.adapters.sharing import Sharing
from runstore.adapters.store import RedisStore
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import EntryId
from runstore.ports import LeftRuns
from runstore.projection.partition import PartitionProjector
from runstore.projection.reader import EventReader, Row, cut

_log = getLogger("runstore.projector")


class ProjectorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a projector works."""

    batch_entries: int = 256
    """Entries in one commit at most."""

    batch_bytes: int = 8 * 1024 * 1024
    """Bytes of entries in one read, and in one commit, unless a single entry is larger."""

    block_ms: int = 1_000
    """Milliseconds that a read waits for news before it looks again at which partitions are its own."""

    heads: int = 4_000
    """Records of recent runs that are kept in memory, for each partition."""

    lease_ms: int = 3_000
    """Milliseconds after which the partitions of a projector that died go to others; it says three times as often that
    it lives."""

    log_retention: int = 100_000
    """Events kept in each partition behind the cursor, about, for `rebuild`."""

    feed_retention: int = 10_000
    """Feed entries kept in each partition at least, for clients that resume."""

    feed_retention_s: float = 900.0
    """Seconds for which a feed entry is kept at least."""

    mark_every_ms: int = 1_000
    """Milliseconds between two looks at whether each newest commit is marked as safe, with a durability above
    `acknowledged`."""

    trim_every_commits: int = 64
    """Commits of a partition between two trimmings."""

    loops: int = 2
    """Loops that share the partitions within the process: while the store works for one of them, another one folds."""

    max_backoff_s: float = 2.0
    """Seconds to wait at most after a turn that failed; the first waits are shorter."""

    metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    """A port on which numbers are given out for Prometheus; 0 picks a free one. Unset: none."""

    metrics_host: str = "127.0.0.1"
    """Address of that port. It asks for no token."""


class Projector:
    """Project a store's log, alone or beside others.

    `archive` knows the runs that left the store: an event of one of them begins no second run. A turn may be called
    without `start`: it then takes all partitions.
    """

    def __init__(
        self, store: RedisStore, config: ProjectorConfig | None = None, *, archive: LeftRuns | None = None
    ) -> None:
        self._store = store
        self._config = config or ProjectorConfig()
        self._name = token_hex(8)
        self._sharing = Sharing(store.client, store.meta, self._name, lease_ms=self._config.lease_ms)
        limits = {"most_entries": self._config.batch_entries, "most_bytes": self._config.batch_bytes}
        self._reader = EventReader(store, **limits)
        self._readers = [EventReader(store, **limits) for _ in range(self._config.loops)]
        self._partitions = [
            PartitionProjector(store, partition, heads=self._config.heads, archive=archive)
            for partition in range(store.meta.partitions)
        ]
        self._owned = set(range(store.meta.partitions))
        self._paused_until: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._trimmed_at: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.entries_folded = 0
        self.turns_failed = 0

    @property
    def partitions_owned(self) -> frozenset[int]:
        """The partitions that this projector folds at present."""
        return frozenset(self._owned)

    @property
    def parts(self) -> list[PartitionProjector]:
        """What folds each partition, whether it is this projector's at present or not."""
        return self._partitions

    @property
    def store(self) -> RedisStore:
        """The store that is projected."""
        return self._store

    async def start(self) -> None:
        """Take a share of the partitions and begin; return once that is done.

        Raises: StoreUnavailable.
        """
        self._owned = set()
        await self._share()
        self._tasks = [
            *(
                asyncio.create_task(self._project_forever(loop), name=f"runstore-projector-{loop}")
                for loop in range(self._config.loops)
            ),
            asyncio.create_task(self._share_forever(), name="runstore-projector-sharing"),
        ]
        if self._store.safety.has_mark:
            self._tasks.append(asyncio.create_task(self._mark_forever(), name="runstore-projector-marking"))

    async def stop(self) -> None:
        """Stop and leave the partitions to others; may be called twice."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            owned, self._owned = sorted(self._owned), set()
            with suppress(RunstoreError, TimeoutError):
                await asyncio.wait_for(self._sharing.leave(owned), self._store.connections.timeout_s)

    async def wait(self) -> None:
        """Return when it was stopped. Raises: what ended it, where it was not stopped."""
        if not self._tasks:
            return
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError
        await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def turn(self, block_ms: int | None = None) -> int:
        """Wait for events, fold and commit them, and return how many were committed.

        What goes wrong in one partition pauses that one only.

        Units: `block_ms` 0 does not wait; None waits as configured.

        Raises: StoreUnavailable where nothing could be read.
        """
        wait_ms = self._config.block_ms if block_ms is None else block_ms
        return await self._turn(self._reader, self._owned, wait_ms)

    async def _turn(self, reader: EventReader, ours: set[int], wait_ms: int) -> int:
        now = monotonic()
        owned = [partition for partition in sorted(ours) if self._paused_until.get(partition, 0.0) <= now]
        places = await self._places(owned)
        if len(owned) < len(ours):
            soonest = min(self._paused_until.get(partition, now) for partition in ours - set(owned))
            wait_ms = min(wait_ms, max(1, round((soonest - now) * 1000)))
        found = await reader.read(places, wait_ms)
        for partition, reason in found.unreadable.items():
            self._pause(partition, StoreUnavailable(f"the log of partition {partition} cannot be read: {reason}"))
        work = [self._project(partition, rows) for partition, rows in found.rows.items()]
        # a task for one alone would only let it begin later
        folded = await work[0] if len(work) == 1 else sum(await asyncio.gather(*work))
        self.entries_folded += folded
        return folded

    async def drain(self) -> int:
        """Take turns until nothing is left to read, and return how many entries were committed."""
        folded = 0
        while True:
            behind = await self._is_behind()
            folded += await self.turn(block_ms=0)
            if not behind:
                return folded

    async def _is_behind(self) -> bool:
        after = await self._places(sorted(self._owned))
        pipe = self._store.client.pipeline(transaction=False)
        for partition, entry in after.items():
            pipe.execute_command("XRANGE", self._store.meta.keys[partition].events, f"({entry}", "+", "COUNT", 1)
        # a log that cannot be read, or whose largest id was folded, has nothing to wait for
        replies = await pipe.execute(raise_on_error=False) if after else []
        return any(reply for reply in replies if not isinstance(reply, Exception))

    async def _places(self, partitions: list[int]) -> dict[int, EntryId]:
        loads = [self._load(partition) for partition in partitions if self._partitions[partition].is_to_be_loaded]
        if loads:
            await asyncio.gather(*loads)
        known = ((partition, self._partitions[partition].entry) for partition in partitions)
        return {partition: entry for partition, entry in known if entry is not None}

    async def _load(self, partition: int) -> None:
        try:
            await self._partitions[partition].load()
        except Exception as error:  # noqa: BLE001 - one damaged partition must not hold up the others
            self._pause(partition, error)

    async def _project(self, partition: int, rows: list[Row]) -> int:
        projector, folded = self._partitions[partition], 0
        try:
            for batch in cut(rows, most_entries=self._config.batch_entries, most_bytes=self._config.batch_bytes):
                if not await projector.project(batch):
                    break
                folded += len(batch)
            self._failures.pop(partition, None)
            if projector.commits - self._trimmed_at.get(partition, 0) >= self._config.trim_every_commits:
                self._trimmed_at[partition] = projector.commits
                await self._trim(partition)
        except Exception as error:  # noqa: BLE001 - as above
            self._pause(partition, error)
        return folded

    async def _trim(self, partition: int) -> None:
        await trim(
            self._store.client,
            self._store.meta.keys[partition],
            log_retention=self._config.log_retention,
            feed_retention=self._config.feed_retention,
            feed_retention_ms=round(self._config.feed_retention_s * 1000),
        )

    def _pause(self, partition: int, error: Exception) -> None:
        self._failures[partition] = failures = self._failures.get(partition, 0) + 1
        self.turns_failed += 1
        self._paused_until[partition] = monotonic() + self._backoff_s(failures)
        reason = error.detail if isinstance(error, RunstoreError) else f"{type(error).__name__}: {error}"
        _log.error("partition_paused", extra={"partition": partition, "failures": failures, "reason": reason})

    def _backoff_s(self, failures: int) -> float:
        return min(self._config.max_backoff_s, 0.05 * 2.0 ** min(failures - 1, 10))

    async def _project_forever(self, loop: int) -> None:
        failures = 0
        while not self._stopping:
            try:
                await self._turn(self._readers[loop], self._of_loop(loop), self._config.block_ms)
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it was, the log is behind it and must go on
                failures += 1
                self.turns_failed += 1
                for partition in self._of_loop(loop):
                    self._partitions[partition].drop()
                if isinstance(error, StoreUnavailable):
                    _log.error("turn_failed", extra={"failures": failures, "reason": error.detail})
                else:
                    _log.exception("turn_failed", extra={"failures": failures})
                await asyncio.sleep(self._backoff_s(failures))

    def _of_loop(self, loop: int) -> set[int]:
        return {partition for partition in self._owned if partition % self._config.loops == loop}

    async def _share_forever(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._config.lease_ms / 3000)
            try:
                await self._share()
            except StoreUnavailable as error:
                _log.error("sharing_failed", extra={"reason": error.detail})

    async def _mark_forever(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._config.mark_every_ms / 1000)
            try:
                await self.mark()
            except StoreUnavailable as error:
                _log.error("marking_failed", extra={"reason": error.detail})

    async def mark(self) -> None:
        """Mark what was left unmarked: by who died before it could, by replicas that were away, by a failover.

        Raises: StoreUnavailable.
        """
        owned = sorted(self._owned)
        marks = await get_marks(self._store.client, [self._store.meta.keys[partition] for partition in owned])
        confirms = (self._partitions[p].confirm(mark) for p, mark in zip(owned, marks, strict=True))
        failed = [error for error in await asyncio.gather(*confirms, return_exceptions=True) if error is not None]
        if failed:
            raise failed[0]

    async def _share(self) -> None:
        """Keep what is held, give away what is over a fair share, take what nobody holds."""
        await self._store.ping()
        await renew_meta(self._store.client, self._store.meta)
        share = -(-self._store.meta.partitions // await self._sharing.arrive())
        held = {partition for partition in sorted(self._owned) if await self._sharing.hold(partition)}
        surplus = set(sorted(held)[share:])
        self._owned = held - surplus
        await self._sharing.release(sorted(surplus))
        for partition in range(self._store.meta.partitions):
            if len(self._owned) >= share:
                break
            if partition not in self._owned and await self._sharing.hold(partition):
                self._partitions[partition].drop()
                self._owned.add(partition)
