"""Listings: newest first, every filter, and walks that miss and repeat nothing."""

import random

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId, to_bytes
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.ports import ListPosition, ListQuery
from runstore.projector import Projector
from tests.projector.builders import run_id_of, tell_at

STATUSES = ["pending", "running", "success", "failed", "timed_out", "cancelled"]
SHAS = ["a" * 40, "ab" + "c" * 38, "main"]


async def walk(store: RedisStore, query: ListQuery, limit: int) -> list[Run]:
    shown: list[Run] = []
    position: ListPosition | None = None
    while True:
        page = await store.runs.list_runs(query, position, limit)
        assert len(page.runs) <= limit
        shown += page.runs
        position = page.next_position
        if position is None:
            return shown


async def fill(store: RedisStore, count: int, *, seed: int, span_ms: int) -> None:
    """Publish runs of several projects, statuses, commits and tags, many of them in the same milliseconds."""
    chance = random.Random(seed)
    times = sorted(1_700_000_000_000 + chance.randrange(span_ms) for _ in range(count))
    pipe = store.client.pipeline(transaction=False)
    seqs: dict[int, int] = {}
    for number, ms in enumerate(times):
        seqs[ms] = seqs.get(ms, 0) + 1
        run_id = run_id_of(number)
        pipe.execute_command(
            *("XADD", store.meta.keys_of(run_id).events, f"{ms}-{seqs[ms]}", "event"),
            b'{"run_id":"%s","status":"%s","project_name":"%s","commit_sha":"%s","tags":["t%d"],"at":"%s"}'
            % (
                run_id.encode(),
                chance.choice(STATUSES).encode(),
                chance.choice([b"forecasts", b"other"]),
                chance.choice(SHAS).encode(),
                number % 3,
                b"2023-11-14T22:13:20+00:00",
            ),
        )
    await pipe.execute()
    await Projector(store).drain()


def in_order(runs: list[Run]) -> list[RunId]:
    return [r.run_id for r in sorted(runs, key=lambda r: (r.created_ms, to_bytes(r.run_id)), reverse=True)]


async def everything(store: RedisStore, count: int) -> list[Run]:
    records = await store.runs.get_many([run_id_of(number) for number in range(count)])
    return [record.run for record in records if record is not None]


@pytest.mark.parametrize(
    ("partitions", "count", "span_ms"), [(16, 700, 60), (1, 700, 3), (1, 450, 100_000), (2, 1500, 1)]
)
async def test_a_walk_shows_every_run_once_newest_first(
    redis_url: str, partitions: int, count: int, span_ms: int
) -> None:
    async with RedisStore.open(redis_url, partitions=partitions) as store:
        await fill(store, count, seed=count, span_ms=span_ms)
        runs = await everything(store, count)
        assert len(runs) == count

        for limit in (7, 50, 200):
            assert [r.run_id for r in await walk(store, ListQuery(), limit)] == in_order(runs)


QUERIES = [
    (ListQuery(projects=frozenset({"forecasts"})), lambda r: r.project_name == "forecasts"),
    (ListQuery(projects=frozenset({"nobody"})), lambda r: False),
    (ListQuery(statuses=frozenset({Status.SUCCESS})), lambda r: r.status == "success"),
    (ListQuery(statuses=frozenset({Status.FAILED, Status.PENDING})), lambda r: r.status in {"failed", "pending"}),
    (ListQuery(statuses=frozenset({Status.RUNNING, Status.SUCCESS})), lambda r: r.status in {"running", "success"}),
    (ListQuery(commit_sha="AB"), lambda r: r.commit_sha.startswith("ab")),
    (ListQuery(commit_sha="main"), lambda r: r.commit_sha == "main"),
    (ListQuery(tags=frozenset({"t1"})), lambda r: "t1" in r.tags),
    (ListQuery(tags=frozenset({"t1", "t2"})), lambda r: False),
    (ListQuery(created_after_us=1_700_000_000_020_000), lambda r: r.created_ms > 1_700_000_000_020),
    (ListQuery(created_before_us=1_700_000_000_020_999), lambda r: r.created_ms <= 1_700_000_000_020),
    (ListQuery(created_before_us=1_700_000_000_020_000), lambda r: r.created_ms < 1_700_000_000_020),
    (ListQuery(created_after_us=1_700_000_000_020_000, created_before_us=1_700_000_000_010_000), lambda r: False),
    (
        ListQuery(
            statuses=frozenset({Status.FAILED}),
            created_after_us=1_700_000_000_020_000,
            created_before_us=1_700_000_000_010_000,
        ),
        lambda r: False,
    ),
    (
        ListQuery(created_after_us=1_700_000_000_009_999, created_before_us=1_700_000_000_020_000),
        lambda r: 1_700_000_000_010 <= r.created_ms < 1_700_000_000_020,
    ),
    (
        ListQuery(finished_after_us=1_700_000_000_050_000),
        lambda r: r.is_terminal and r.recorded_ms > 1_700_000_000_050,
    ),
    (
        ListQuery(finished_after_us=1_700_000_000_050_000, statuses=frozenset({Status.FAILED})),
        lambda r: r.status == "failed" and r.recorded_ms > 1_700_000_000_050,
    ),
    (
        ListQuery(statuses=frozenset({Status.FAILED}), created_after_us=1_700_000_000_030_000),
        lambda r: r.status == "failed" and r.created_ms > 1_700_000_000_030,
    ),
]


async def test_each_filter_shows_what_it_names_and_nothing_else(store: RedisStore) -> None:
    await fill(store, 120, seed=1, span_ms=60)
    runs = await everything(store, 120)

    for query, holds in QUERIES:
        wanted = [run for run in runs if holds(run)]
        assert [r.run_id for r in await walk(store, query, 60)] == in_order(wanted), query


@pytest.mark.parametrize("statuses", [frozenset(), frozenset({Status.FAILED})])
async def test_bounds_that_exclude_each_other_show_nothing(store: RedisStore, statuses: frozenset[Status]) -> None:
    await fill(store, 20, seed=1, span_ms=60)
    query = ListQuery(created_after_us=1_700_000_001_000_000, created_before_us=1_700_000_000_000_000)

    assert await walk(store, msgspec.structs.replace(query, statuses=statuses), 10) == []


async def test_a_walk_misses_and_repeats_nothing_while_runs_begin_and_move(real_store: RedisStore) -> None:
    store = real_store
    await fill(store, 300, seed=3, span_ms=40)
    before = in_order(await everything(store, 300))
    projector, shown, position, number = Projector(store), [], None, 300

    while True:
        page = await store.runs.list_runs(ListQuery(), position, 11)
        shown += [run.run_id for run in page.runs]
        position = page.next_position
        if position is None:
            break
        await tell_at(store, run_id_of(number), 1_700_000_100_000, 2 * number, "running")
        await tell_at(store, run_id_of(number % 300), 1_700_000_100_000, 2 * number + 1, "failed")
        await projector.drain()
        number += 1

    assert shown == before


async def test_a_run_that_moves_between_two_statuses_is_not_missed_by_a_listing_of_both(real_store: RedisStore) -> None:
    store, projector = real_store, Projector(real_store)
    ids = [run_id_of(number) for number in range(60)]
    for place, run_id in enumerate(ids):
        await tell_at(store, run_id, 1_700_000_000_000 + place, 0, "pending")
    await projector.drain()
    query = ListQuery(statuses=frozenset({Status.PENDING, Status.RUNNING}))

    for place, run_id in enumerate(reversed(ids)):
        await tell_at(store, run_id, 1_700_000_001_000 + place, 1, "running")
        await projector.drain()

        assert len(await walk(store, query, 7)) == len(ids)


async def test_a_narrow_filter_gives_short_pages_that_go_on(real_store: RedisStore) -> None:
    await fill(real_store, 2600, seed=5, span_ms=5000)
    query = ListQuery(commit_sha="nothing")

    page = await real_store.runs.list_runs(query, None, 10)

    assert page.runs == ()
    assert page.next_position is not None
    assert await walk(real_store, query, 10) == []
