"""Runs looked up: concurrent questions joined into one, and the answers of ended runs kept, for they never change."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.principal import Principal
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.feed import FeedTail
from runstore.ports import Outputs, Runs
from runstore.wire.record import Record
from runstore.wire.views import encode, view_run

MAX_BATCH: Final = 512
_ENTRY_BYTES: Final = 1024
"""What an answer is counted for beside its body."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A run as `get_run` answers it: ready JSON and its strong entity tag (with quotes)."""

    record: Record
    body: bytes
    etag: str


class LookupCounts:
    """Look-ups by what came of them: a kept answer, a run that is there, none, no answer; the archive's apart."""

    __slots__ = ("absent", "archive_absent", "archive_failed", "archive_found", "failed", "found", "kept")

    def __init__(self) -> None:
        self.kept = self.found = self.absent = self.failed = 0
        self.archive_found = self.archive_absent = self.archive_failed = 0


class Lookup:
    """Look runs up, and keep what cannot change. With a `tail`, nothing is answered that it may not tell yet.

    Needs: an event loop of its own; questions of one turn of the loop go to the store together.
    """

    def __init__(self, runs: Runs, outputs: Outputs, *, cache_bytes: int, tail: FeedTail | None = None) -> None:
        self._runs = runs
        self._tail = tail
        self._outputs = outputs
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[RunId, Answer] = OrderedDict()
        self._kept_bytes = 0
        self._generation = 0
        self._asked: dict[RunId, list[asyncio.Future[Record | None]]] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self.counts = LookupCounts()

    @property
    def kept_bytes(self) -> int:
        """What the kept answers are counted for."""
        return self._kept_bytes

    def kept(self, run_id: RunId) -> Answer | None:
        """Get the answer about a run where it is kept, for good."""
        answer = self._kept.get(run_id)
        if answer is not None:
            self._kept.move_to_end(run_id)
            self.counts.kept += 1
        return answer

    async def record(self, run_id: RunId, *, projects: frozenset[str] | None = None) -> Record | None:
        """Get a run's record as the store has it now, or as it is for good; `projects` as for `fresh`."""
        kept = self._kept.get(run_id)
        if kept is not None:
            self._kept.move_to_end(run_id)
            self.counts.kept += 1
            return kept.record
        return await self.fresh(run_id, projects=projects)

    async def record_for(self, principal: Principal, run_id: RunId) -> Record | None:
        """Get a run's record if the caller may see it.

        A run out of reach costs what one that does not exist costs, also where its answer is kept.
        """
        was_kept, projects = run_id in self._kept, _within_reach(principal, run_id)
        record = await self.record(run_id, projects=projects)
        if record is None or principal.may_see(record.run.project_name, run_id):
            return record
        if was_kept:
            record = await self.fresh(run_id, projects=projects)
        if record is not None and self._runs.has_archive:
            # Redis has it; one that does not exist is looked for in the archive as well
            await self._ask_archive(run_id, projects)
        return None

    async def fresh(self, run_id: RunId, *, projects: frozenset[str] | None = None) -> Record | None:
        """Get a run's record as the store has it now: what was ignored after the end is in it too.

        Where the store does not have it, its archive is asked: about these projects (None: all) and no others.

        Raises: StoreUnavailable, also where it is not safe in time to tell of it.
        """
        while True:
            generation = self._generation
            # from before the question: a commit with the same number may be another after it
            floor = self._tail.floor(self._tail.partition_of(run_id)) if self._tail is not None else None
            record = await self._ask(run_id)
            if generation != self._generation:
                continue
            if record is None and self._runs.has_archive:
                # not in the joined question: nobody who asked for another run waits for the archive
                record = await self._ask_archive(run_id, projects)
                if generation == self._generation:
                    return record
                continue
            if record is None or floor is None or record.version <= floor:
                return record
            await self._until_safe(run_id, record.version, generation)

    async def _until_safe(self, run_id: RunId, version: int, generation: int) -> None:
        assert self._tail is not None
        try:
            await self._tail.told(self._tail.partition_of(run_id), version)
        except StoreUnavailable:
            if generation == self._generation:
                raise

    async def show(self, record: Record) -> Answer:
        """Make the answer about a run, its output capped."""
        kept = self._kept.get(record.run.run_id)
        if kept is not None:
            return kept
        generation = self._generation
        output = await self.view(record.run)
        body = encode(view_run(record.run, output))
        answer = Answer(record=record, body=body, etag=f'"{blake2b(body, digest_size=12).hexdigest()}"')
        is_whole = record.run.status is not Status.SUCCESS or record.run.output is None or output is not None
        if record.run.is_terminal and is_whole and generation == self._generation:
            self._keep(answer)
        return answer

    async def answer(self, run_id: RunId) -> Answer | None:
        """Get the answer about a run; None where it is not known."""
        record = await self.record(run_id)
        return await self.show(record) if record is not None else None

    async def view(self, run: Run) -> bytes | None:
        """Get the capped view of what a successful run left (None: nothing to show)."""
        if run.status is not Status.SUCCESS or run.output is None:
            return None
        return await self._outputs.view(run.run_id, run.output)

    def forget_all(self) -> None:
        """Forget every kept answer: the store was rolled back, and what never changes may have."""
        self._kept.clear()
        self._kept_bytes = 0
        self._generation += 1

    def _keep(self, answer: Answer) -> None:
        run_id = answer.record.run.run_id
        size = len(answer.body) + _ENTRY_BYTES
        if size > self._cache_bytes or run_id in self._kept:
            return
        self._kept[run_id] = answer
        self._kept_bytes += size
        while self._kept_bytes > self._cache_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.body) + _ENTRY_BYTES

    def _ask(self, run_id: RunId) -> asyncio.Future[Record | None]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Record | None] = loop.create_future()
        if not self._asked:
            loop.call_soon(self._send)
        self._asked.setdefault(run_id, []).append(answer)
        return answer

    async def _ask_archive(self, run_id: RunId, projects: frozenset[str] | None) -> Record | None:
        try:
            record = await self._runs.get_archived(run_id, projects)
        except StoreUnavailable:
            self.counts.archive_failed += 1
            raise
        if record is None:
            self.counts.archive_absent += 1
        else:
            self.counts.archive_found += 1
        return record

    def _send(self) -> None:
        asked, self._asked = self._asked, {}
        run_ids = list(asked)
        for first in range(0, len(run_ids), MAX_BATCH):
            question = asyncio.create_task(self._question(run_ids[first : first + MAX_BATCH], asked))
            self._questions.add(question)
            question.add_done_callback(self._questions.discard)

    async def _question(
        self, run_ids: Sequence[RunId], asked: dict[RunId, list[asyncio.Future[Record | None]]]
    ) -> None:
        try:
            records = await self._runs.get_many(run_ids)
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            self.counts.failed += len(run_ids)
            for run_id in run_ids:
                for answer in asked[run_id]:
                    if not answer.done():
                        answer.set_exception(error)
            return
        absent = records.count(None)
        self.counts.absent += absent
        self.counts.found += len(run_ids) - absent
        for run_id, record in zip(run_ids, records, strict=True):
            for answer in asked[run_id]:
                if not answer.done():
                    answer.set_result(record)


def _within_reach(principal: Principal, run_id: RunId) -> frozenset[str] | None:
    """Name the projects whose archive may be asked about a run for a caller (None: all)."""
    is_for_another = principal.run_id is not None and principal.run_id != run_id
    return frozenset() if is_for_another else principal.projects
