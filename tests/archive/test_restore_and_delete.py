"""A run that was brought back is what it was; one that was erased is nowhere."""

import msgspec
import pytest

from runstore.archive.archive import Archive
from runstore.archive.archiver import Archiver
from runstore.archive.erasing import Eraser
from runstore.archive.restoring import restore
from runstore.core.errors import InvalidRequest, RunNotFound
from runstore.ports import ListQuery
from runstore.rebuild import Rebuild
from tests.archive.site import Attic, answers, doors, many_kinds
from tests.archive.test_crashes import _mentions, everything
from tests.projector.builders import run_id_of
from tests.waiting import happens


async def test_a_run_that_was_brought_back_is_what_it_was(attic: Attic) -> None:
    run_ids = await many_kinds(attic)
    before = await answers(attic, run_ids)
    await attic.archiver.turn()

    for run_id in run_ids:
        assert await restore(attic.store, attic.archive, run_id)
        assert not await restore(attic.store, attic.archive, run_id)

    assert all(await attic.store.runs.get_many(run_ids))
    assert await answers(attic, run_ids) == before
    assert (await attic.archiver.turn()).moved == 0  # it stays for `restored_s`
    assert sorted(await attic.walk(2)) == sorted(run_ids)


async def test_runs_that_come_back_stand_at_their_places_in_a_listing(shed: Attic) -> None:
    told = await shed.ended(range(1, 400))
    before = await shed.walk(50)
    await shed.archiver.turn()
    await shed.ended(range(400, 440))

    for run_id in told[::9]:
        await restore(shed.store, shed.archive, run_id)

    assert (await shed.walk(13))[40:] == before
    page = await shed.store.runs.list_runs(ListQuery(), None, 200)
    there = [run.run_id for run in page.runs]
    assert there[40:] == [run_id for run_id in before if run_id in set(told[::9])]


async def test_what_the_archive_does_not_have_cannot_be_brought_back(shed: Attic) -> None:
    with pytest.raises(RunNotFound, match="the archive has no run"):
        await restore(shed.store, shed.archive, run_id_of(1))


@pytest.mark.parametrize("is_archived", [False, True])
async def test_an_erased_run_is_nowhere_and_gateways_are_told(attic: Attic, is_archived: bool) -> None:
    doomed, kept = await attic.ended([1, 2])
    if is_archived:
        await attic.archiver.turn()
    async with doors(attic) as site:
        watched = await site.get(f"/v1/runs/{doomed}")
        assert (await site.get(f"/v1/runs/{kept}")).status == watched.status == 200
        rollbacks = site.gateway.services.tail.rollbacks

        erased = await Eraser(attic.store, attic.archive).run(doomed)

        await happens(lambda: site.gateway.services.tail.rollbacks > rollbacks)
        assert (await site.get(f"/v1/runs/{doomed}")).code == "run_not_found"
        assert (await site.get(f"/v1/runs/{doomed}/events")).code == "run_not_found"
        assert (await site.get(f"/v1/runs/{doomed[:8]}")).code == "run_not_found"
        assert (await site.get(f"/v1/runs/{kept}")).status == 200
        lost = await site.get(f"/v1/runs/{kept}?after={watched.headers['Runstore-Cursor']}")
        assert lost.status in {200, 410}
    assert (erased.runs, erased.in_redis, erased.log_entries) == (1, int(not is_archived), 1)
    assert await attic.walk(10) == [kept]
    assert await _mentions(attic, doomed, besides_last=False) == []
    [audit] = [name async for name in attic.archive.objects.names("audit")]
    line = msgspec.json.decode(await attic.archive.objects.get(audit) or b"")
    assert (line["run_id"], line["project_name"]) == (doomed, "forecasts")
    everywhere = [name async for name in attic.archive.objects.names("runs")]
    assert not any(doomed.replace("-", "") in name for name in everywhere)


async def test_an_erased_project_is_nowhere(attic: Attic) -> None:
    kept = await attic.ended([1, 2, 3])
    await attic.ended(range(10, 40), project="secret", status="failed")
    await attic.tell(run_id_of(50), "pending", project_name="secret", numbered=True, request={"inputs": {}})
    await attic.projector.drain()
    with pytest.raises(InvalidRequest, match="has not ended"):
        await Eraser(attic.store, attic.archive).project("secret")
    await attic.tell(run_id_of(50), "cancelled", project_name="secret")
    await attic.projector.drain()
    await attic.archiver.move_batch(await attic.archiver._oldest(2**50, 15))

    erased = await Eraser(attic.store, attic.archive).project("secret")

    assert erased.runs == 31
    assert sorted(await attic.walk(10)) == sorted(kept)
    for key, held in (await everything(attic.store)).items():
        assert b"secret" not in key + held
    assert not [name async for name in attic.archive.objects.names("runs/secret")]
    assert not [name async for name in attic.archive.objects.names("index/secret")]
    with pytest.raises(RunNotFound):
        await Eraser(attic.store, attic.archive).project("secret")
    await attic.tell(run_id_of(60), "pending", project_name="secret", numbered=True, request={"inputs": {}})
    await attic.projector.drain()
    [record] = await attic.store.runs.get_many([run_id_of(60)])
    assert record is not None
    assert (record.run.run_number, record.page) == (1, 0)


async def test_only_what_has_ended_is_erased(shed: Attic) -> None:
    await shed.tell(run_id_of(1), "running")
    await shed.projector.drain()

    with pytest.raises(InvalidRequest, match="has not ended"):
        await Eraser(shed.store, shed.archive).run(run_id_of(1))


async def test_an_archiver_that_was_asleep_during_a_delete_brings_nothing_back(shed: Attic) -> None:
    doomed, kept = await shed.ended([1, 2])
    put = shed.archive.objects.put
    asleep = [True]

    async def erase_first(name: str, body: bytes) -> None:
        if asleep.pop() if asleep else False:
            await Eraser(shed.store, Archive(shed.archive.objects, shed.archive.config)).run(doomed)
        await put(name, body)

    shed.archive.objects.put = erase_first  # type: ignore[method-assign]
    await Archiver(shed.store, shed.archive).move_due()
    await Archiver(shed.store, shed.archive).move_due()

    assert await shed.walk(5) == [kept]
    assert await shed.both.runs.get_archived(doomed) is None


async def test_a_rebuild_finds_archived_runs_where_they_are(attic: Attic) -> None:
    run_ids = await many_kinds(attic)
    await attic.archiver.turn()
    await attic.tell(run_ids[0], "failed", error_message="late")
    await attic.ended([20, 21])
    await Eraser(attic.store, attic.archive).run(run_id_of(20))
    await attic.tell(run_id_of(20), "success")
    await attic.projector.drain()

    report = await Rebuild(attic.store, attic.both.runs).run()
    swapped = await Rebuild(attic.store, attic.both.runs).run(swap=True)

    assert report.differences == swapped.differences == []
    assert (report.archived, swapped.swapped) == (len(run_ids), 0)
    assert await attic.store.runs.get_many(run_ids) == [None] * len(run_ids)


async def test_a_rebuild_tells_of_a_run_that_is_neither_here_nor_there(shed: Attic) -> None:
    [run_id] = await shed.ended([1])
    await shed.archiver.turn()
    await shed.archive.objects.delete([name async for name in shed.archive.objects.names("runs")])
    shed.archive.forget()

    report = await Rebuild(shed.store, shed.both.runs).run()

    assert [(found.run_id, found.what) for found in report.differences] == [(run_id, "the run is missing")]
