"""An object store that fails: nothing is lost, what was answered is right, and what cannot be known is 503."""

import asyncio

from runstore.adapters.objects import Objects
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.erasing import Eraser
from runstore.core.errors import StoreUnavailable
from tests.archive.bad_way import bad_way
from tests.archive.conftest import make_bucket, s3_objects
from tests.archive.site import NOW, Attic, answers, doors, many_kinds
from tests.projector.builders import run_id_of


async def test_a_store_that_fails_half_the_time_loses_nothing(real_store: RedisStore, s3_port: int) -> None:
    make_bucket(s3_port)
    async with bad_way(s3_port, seed=3, share=0.5) as way:
        attic = Attic(real_store, Archive(s3_objects(way.port, timeout_s=2.0), NOW))
        straight = Attic(real_store, Archive(s3_objects(s3_port), NOW))
        run_ids = await many_kinds(attic)
        before = await answers(straight, run_ids)

        for _ in range(100):
            if not (await attic.store.client.keys("runstore:{*}:r:*")):
                break
            try:
                await attic.archiver.turn()
            except StoreUnavailable:
                continue

        assert not await attic.store.client.keys("runstore:{*}:r:*")
        assert await answers(straight, run_ids) == before
        assert sum(way.met.values()) - way.met[""] >= 10


async def test_while_the_archive_is_away_what_may_be_there_is_503_and_all_else_goes_on(
    real_store: RedisStore, s3_port: int
) -> None:
    make_bucket(s3_port)
    async with bad_way(s3_port, seed=4, share=0.0) as way:
        attic = Attic(real_store, Archive(s3_objects(way.port, timeout_s=0.3), NOW))
        left, here = run_id_of(1), run_id_of(2)
        await attic.tell(left, "success")
        await attic.projector.drain()
        await attic.archiver.turn()
        await attic.tell(here, "success")
        await attic.projector.drain()
        attic.archive.forget()
        way.share, way.faults = 1.0, ("error",)

        async with doors(attic) as site:
            away = await site.get(f"/v1/runs/{left}")
            asked = asyncio.create_task(site.get(f"/v1/runs/{left}"))
            there = await site.get(f"/v1/runs/{here}")
            unknown = await site.get(f"/v1/runs/{run_id_of(3)}")
            body = {"project_name": "forecasts", "run_id": left}
            again = await site.post("/v1/runs", body)
            await asked

        assert (away.status, away.code) == (503, "store_unavailable")
        assert away.headers["Retry-After"]
        assert (there.status, unknown.code) == (200, "run_not_found")
        assert again.status == 503  # not a second run


async def test_a_late_event_waits_for_the_archive_and_begins_nothing(real_store: RedisStore, s3_port: int) -> None:
    make_bucket(s3_port)
    async with bad_way(s3_port, seed=5, share=0.0) as way:
        attic = Attic(real_store, Archive(s3_objects(way.port, timeout_s=0.3), NOW))
        [run_id] = await attic.ended([1])
        await attic.archiver.turn()
        attic.archive.forget()
        way.share, way.faults = 1.0, ("error",)
        await attic.tell(run_id, "running")
        await attic.projector.turn(block_ms=0)
        assert await real_store.runs.get_many([run_id]) == [None]
        way.share = 0.0

        await attic.projector.drain()

        assert await real_store.runs.get_many([run_id]) == [None]
        stats = await real_store.client.execute_command("HGETALL", real_store.meta.keys_of(run_id).stats)
        assert stats[b"late"] == b"1"


async def test_a_delete_over_a_store_that_fails_is_repeated_until_it_is_done(
    real_store: RedisStore, s3_port: int
) -> None:
    make_bucket(s3_port)
    async with bad_way(s3_port, seed=6, share=0.3) as way:
        attic = Attic(real_store, Archive(s3_objects(way.port, timeout_s=2.0), NOW))
        straight = Archive(s3_objects(s3_port), NOW)
        told = await attic.ended(range(1, 6))
        await Attic(real_store, straight).archiver.turn()
        for _ in range(50):
            try:
                await Eraser(real_store, attic.archive).run(told[2])
                break
            except StoreUnavailable:
                continue

        assert sorted(await Attic(real_store, straight).walk(10)) == sorted({*told} - {told[2]})
        assert [run async for run in straight.each_run("forecasts")] == sorted({*told} - {told[2]})


async def test_a_folder_that_cannot_be_written_leaves_every_run_where_it_is(shed: Attic) -> None:
    told = await shed.ended([1, 2])
    folder = shed.archive.objects._folder
    assert folder is not None
    (folder / "runs").write_text("a file in the way")

    moved = await shed.archiver.turn()

    assert (moved.moved, moved.failed) == (0, 2)
    assert all(await shed.store.runs.get_many(told))
    (folder / "runs").unlink()
    assert (await Attic(shed.store, Archive(Objects.open(str(folder)), NOW)).archiver.turn()).moved == 2
