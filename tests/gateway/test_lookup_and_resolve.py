"""Look-ups joined into one question, answers kept, and names resolved to runs."""

import asyncio
from collections.abc import Sequence

import pytest

from runstore.core.errors import AmbiguousRunId, RunNotFound, StoreUnavailable
from runstore.core.event import OutputRef
from runstore.core.ids import RunId
from runstore.core.principal import Principal, Scope
from runstore.core.run import HistoryItem, Run
from runstore.core.status import Status
from runstore.lookup import Answer, Lookup
from runstore.ports import ListPage, ListPosition, ListQuery
from runstore.resolve import Resolver
from runstore.wire.record import Record

IDS = [RunId(f"abcdef00-0000-4000-8000-0000000000{number:02d}") for number in range(20)]
EVERYBODY = Principal(name="everybody", scopes=frozenset({Scope.READ}))


def record(run_id: RunId, status: Status = Status.SUCCESS, project_name: str = "forecasts") -> Record:
    ref = OutputRef(token=b"t", output_bytes=2, chunks=0)
    run = Run(run_id=run_id, project_name=project_name, status=status, created_ms=1, recorded_ms=1, output=ref)
    return Record(run=run, version=1, page=0)


class Shelf:
    """Runs and outputs that note what they were asked, and can be held back."""

    has_archive = False

    def __init__(self, *records: Record) -> None:
        self.records = {one.run.run_id: one for one in records}
        self.asked: list[list[RunId]] = []
        self.looked_for: list[frozenset[str] | None] = []
        self.is_away = False
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def get_many(self, run_ids: Sequence[RunId]) -> list[Record | None]:
        self.asked.append(list(run_ids))
        found = [self.records.get(run_id) for run_id in run_ids]
        await self.is_open.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        return found

    async def find(self, digits: str, projects: frozenset[str] | None, limit: int) -> list[RunId]:
        self.looked_for.append(projects)
        found = sorted(
            run_id
            for run_id, one in self.records.items()
            if run_id.replace("-", "").startswith(digits) and (projects is None or one.run.project_name in projects)
        )
        return found[:limit]

    async def history(self, run_id: RunId) -> list[HistoryItem]:
        raise NotImplementedError

    async def list_runs(self, query: ListQuery, position: ListPosition | None, limit: int) -> ListPage:
        raise NotImplementedError

    async def view(self, run_id: RunId, ref: OutputRef) -> bytes | None:
        return b'{"status":"success"}'


def lookup_over(shelf: Shelf, cache_bytes: int = 1_000_000) -> Lookup:
    return Lookup(shelf, shelf, cache_bytes=cache_bytes)  # type: ignore[arg-type]


async def answer_of(lookup: Lookup, run_id: RunId) -> Answer:
    answer = await lookup.answer(run_id)
    assert answer is not None
    return answer


async def test_questions_of_one_turn_are_asked_together_and_each_run_once() -> None:
    shelf = Shelf(*(record(run_id) for run_id in IDS))
    lookup = lookup_over(shelf)

    found = await asyncio.gather(*(lookup.record(run_id) for run_id in IDS * 3))

    assert shelf.asked == [IDS]
    assert [one.run.run_id for one in found if one] == IDS * 3


async def test_a_caller_who_hangs_up_takes_no_answer_from_the_others() -> None:
    shelf = Shelf(record(IDS[0]))
    lookup = lookup_over(shelf)
    shelf.is_open.clear()
    first, second = (asyncio.create_task(lookup.record(IDS[0])) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    first.cancel()
    shelf.is_open.set()

    assert (await second) == record(IDS[0])


async def test_a_store_that_is_away_is_told_to_everybody_who_asked() -> None:
    shelf = Shelf()
    shelf.is_away = True
    lookup = lookup_over(shelf)

    told = await asyncio.gather(*(lookup.record(run_id) for run_id in IDS[:3]), return_exceptions=True)

    assert [type(one) for one in told] == [StoreUnavailable] * 3


async def test_answers_of_ended_runs_only_are_kept() -> None:
    shelf = Shelf(record(IDS[0]), record(IDS[1], Status.RUNNING))
    lookup = lookup_over(shelf)
    for _ in range(3):
        await answer_of(lookup, IDS[0])
        await answer_of(lookup, IDS[1])

    assert shelf.asked == [[IDS[0]], [IDS[1]], [IDS[1]], [IDS[1]]]


async def test_the_least_used_answers_make_room() -> None:
    shelf = Shelf(*(record(run_id) for run_id in IDS))
    one = len((await answer_of(lookup_over(shelf), IDS[0])).body) + 1024
    lookup = lookup_over(shelf, cache_bytes=3 * one)
    for run_id in (IDS[0], IDS[1], IDS[2], IDS[0], IDS[3]):
        await answer_of(lookup, run_id)
    shelf.asked.clear()

    for run_id in (IDS[0], IDS[2], IDS[3], IDS[1]):
        await answer_of(lookup, run_id)

    assert shelf.asked == [[IDS[1]]]


async def test_after_a_rollback_nothing_from_before_it_is_answered() -> None:
    shelf = Shelf(record(IDS[0]))
    lookup = lookup_over(shelf)
    await answer_of(lookup, IDS[0])
    shelf.records[IDS[0]] = record(IDS[0], Status.RUNNING)

    lookup.forget_all()

    assert (await answer_of(lookup, IDS[0])).record.run.status is Status.RUNNING


async def test_what_was_read_before_a_rollback_and_came_after_it_is_read_again() -> None:
    shelf = Shelf(record(IDS[0]))
    lookup = lookup_over(shelf)
    shelf.is_open.clear()
    asked = asyncio.create_task(lookup.answer(IDS[0]))
    while not shelf.asked:  # noqa: ASYNC110 - a turn of the loop or two
        await asyncio.sleep(0)

    shelf.records[IDS[0]] = record(IDS[0], Status.RUNNING)
    lookup.forget_all()
    shelf.is_open.set()

    answer = await asked
    assert answer is not None
    assert answer.record.run.status is Status.RUNNING


async def test_a_run_token_finds_its_own_run_by_any_prefix_and_no_other() -> None:
    shelf = Shelf(*(record(run_id) for run_id in IDS))
    resolver = Resolver(shelf, lookup_over(shelf))
    token = Principal(name="watch", scopes=frozenset({Scope.READ}), run_id=IDS[7])

    assert await resolver.resolve(token, "ABCDEF") == IDS[7]
    assert await resolver.resolve(token, IDS[7]) == IDS[7]
    for typed in (IDS[8], "abcd1", IDS[8][:-1].replace("-", "") + "8"):
        with pytest.raises(RunNotFound):
            await resolver.load(token, typed)


async def test_prefixes_are_looked_for_only_among_the_callers_projects() -> None:
    shelf = Shelf(record(IDS[0], project_name="secrets"), record(IDS[1]), record(IDS[2]))
    resolver = Resolver(shelf, lookup_over(shelf))
    mine = Principal(name="me", scopes=frozenset(), projects=frozenset({"secrets"}))
    nothing = Principal(name="nobody", scopes=frozenset(), projects=frozenset())

    assert await resolver.resolve(mine, "abcdef") == IDS[0]
    with pytest.raises(RunNotFound):
        await resolver.resolve(nothing, "abcdef")
    with pytest.raises(AmbiguousRunId) as told:
        await resolver.resolve(EVERYBODY, "abcdef")

    assert told.value.candidates == (IDS[0], IDS[1], IDS[2])
    assert shelf.looked_for == [frozenset({"secrets"}), None]
