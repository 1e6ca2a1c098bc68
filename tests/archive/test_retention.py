"""When runs leave: after their time, for want of memory, when told; and who never does."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from runstore.adapters import tombstones
from runstore.adapters.keeping import used_bytes
from runstore.adapters.mark import get_marks
from runstore.adapters.objects import Objects
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.archiver import Archiver
from runstore.archive.config import ArchiveConfig, parse_size
from runstore.core.errors import InvalidRequest
from runstore.core.ids import RunId
from tests.archive.site import NOW, Attic
from tests.archive.year import live
from tests.projector.builders import run_id_of, tell_at
from tests.waiting import happens


def _with(attic: Attic, **settings: object) -> Archiver:
    base = ArchiveConfig(url="in tests", youngest_s=0)
    return Archiver(attic.store, Archive(attic.archive.objects, msgspec.structs.replace(base, **settings)))


async def test_a_run_leaves_once_its_time_is_over_and_not_before(shed: Attic) -> None:
    old, young, running = run_id_of(1), run_id_of(2), run_id_of(3)
    now_ms = round(time.time() * 1000)
    await tell_at(shed.store, old, now_ms - 7_200_000, 0, "success")
    await tell_at(shed.store, running, now_ms - 7_200_000, 0, "running")
    await tell_at(shed.store, young, now_ms - 1_800_000, 0, "success")
    await shed.projector.drain()

    moved = await _with(shed, retention_s=3600.0).turn()

    assert moved.moved == 1
    assert [record is not None for record in await shed.store.runs.get_many([old, young, running])] == [
        False,
        True,
        True,
    ]


async def test_memory_is_made_by_the_oldest_runs(shed: Attic) -> None:
    now_ms = round(time.time() * 1000)
    run_ids = [run_id_of(number) for number in range(1, 400)]
    for number, run_id in enumerate(run_ids):
        await tell_at(shed.store, run_id, now_ms - 8_000_000 + number, 0, "success", output={"stdout": "x" * 3000})
    await shed.projector.drain()
    budget = await used_bytes(shed.store.client) - 60_000

    moved = await _with(shed, memory=str(budget), batch_runs=20).turn()

    assert 0 < moved.moved < len(run_ids)
    here = [record is not None for record in await shed.store.runs.get_many(run_ids)]
    assert here == [False] * moved.moved + [True] * (len(run_ids) - moved.moved)
    assert await used_bytes(shed.store.client) <= budget


async def test_nothing_that_ended_a_moment_ago_leaves_whatever_memory_says(shed: Attic) -> None:
    await shed.ended(range(1, 10))

    moved = await _with(shed, memory="1KB", youngest_s=600.0).turn()

    assert moved.moved == 0


async def test_the_service_moves_what_ends_while_it_runs(shed: Attic) -> None:
    async with _with(shed, retention_s=0.0, every_s=0.02) as archiver, shed.projector:
        for number in (1, 2, 3):
            await shed.tell(run_id_of(number), "success")

        await happens(lambda: archiver.moved == 3)

    assert len(await shed.walk(10)) == 3
    await archiver.stop()


async def test_while_one_archiver_is_at_it_another_one_waits(shed: Attic) -> None:
    await shed.ended(range(1, 5))
    one, two = _with(shed, retention_s=0.0), _with(shed, retention_s=0.0)
    assert await one._turn.take()

    assert (await two.turn()).moved == 0
    await one._turn.leave()
    assert (await two.turn()).moved == 4


async def test_pages_that_nothing_is_on_any_more_are_gone_but_for_the_open_one(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url, partitions=1) as store:
        attic = Attic(store, Archive(Objects.open(str(tmp_path)), NOW))
        told = await attic.ended(range(1, 251))
        await attic.archiver.turn()
        keys = store.meta.keys[0]
        assert await store.client.zrange(keys.pages("forecasts"), 0, -1) == [b"2"]

        told += await attic.ended(range(251, 301))
        assert sorted(await attic.walk(60)) == sorted(told)
        await attic.archiver.turn()

        assert await store.client.zrange(keys.pages("forecasts"), 0, -1) == []
        assert sorted(await attic.walk(60)) == sorted(told)


async def test_the_filter_knows_whatever_left_and_few_others(real_store: RedisStore) -> None:
    keys = real_store.meta.keys[3]
    left = [RunId(str(run_id_of(number))) for number in range(1, 6001)]
    others = [run_id_of(number) for number in range(10_001, 18_001)]
    assert await tombstones.perhaps(real_store.client, keys, left[:5]) == []

    await tombstones.add(real_store.client, keys, left, end_ms=7, newest_ms={"a": 5, "b": 3})

    assert await tombstones.perhaps(real_store.client, keys, left) == left
    assert len(await tombstones.perhaps(real_store.client, keys, others)) < len(others) / 100
    [gone] = await tombstones.gone(real_store.client, [keys], None)
    assert (gone.end_ms, gone.newest_ms) == (7, {"a": 5, "b": 3})
    [some] = await tombstones.gone(real_store.client, [keys], frozenset({"b", "c"}))
    assert some.newest_ms == {"b": 3}


def test_a_year_of_a_hundred_runs_a_minute_leaves_a_fraction_of_two_gigabytes() -> None:
    assert 16 * tombstones.filter_bytes(365 * 24 * 60 * 100 // 16) < 150_000_000


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_shrunken_year_stays_inside_its_budget_and_all_of_it_is_found(redis_url: str, tmp_path: Path) -> None:
    year = await live(redis_url, tmp_path, days=100, runs_a_day=144)

    assert year.over_days == 0
    assert year.moved > year.runs / 4
    assert year.missing == 0


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2_000_000_000), ("1.5 GiB", 1_610_612_736), ("4096", 4096), ("300m", 300_000_000)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_what_is_no_size_or_no_place_is_told() -> None:
    with pytest.raises(InvalidRequest, match="such as 2GB"):
        parse_size("lots")
    with pytest.raises(InvalidRequest, match="give a folder"):
        Objects.open("ftp://somewhere/else")
    with pytest.raises(InvalidRequest, match="leaves no room"):
        ArchiveConfig(memory="0").check()


async def test_an_archiver_that_is_stopped_midway_leaves_every_run_in_one_place_at_least(shed: Attic) -> None:
    told = await shed.ended(range(1, 300))
    moving = asyncio.create_task(shed.archiver.move(0))
    await happens(lambda: shed.archive.written > 50)

    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)

    assert sorted(await shed.walk(50)) == sorted(told)


async def test_no_run_leaves_before_its_commit_is_as_safe_as_it_is_to_be(redis_url: str, tmp_path: Path) -> None:
    async with RedisStore.open(redis_url, partitions=1, durability="replicated", timeout_s=0.2) as unsafe:
        attic = Attic(unsafe, Archive(Objects.open(str(tmp_path)), NOW))
        run_id = run_id_of(1)
        async with RedisStore.open(redis_url) as plain:
            await Attic(plain, attic.archive).tell(run_id, "success")
        await attic.projector.drain()  # no replica has it
        assert (await attic.archiver.turn()).moved == 0

    async with RedisStore.open(redis_url, durability="fsynced") as safe:
        attic = Attic(safe, Archive(Objects.open(str(tmp_path)), NOW))
        await attic.projector._load(0)
        await attic.projector.mark()

        assert (await attic.archiver.turn()).moved == 1
        [mark] = await get_marks(safe.client, safe.meta.keys)
        assert mark is not None
        assert mark.n == (await safe.feed.newest([0]))[0].n
