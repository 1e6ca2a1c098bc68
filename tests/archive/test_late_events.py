"""Whatever is told of a run that left or was erased, late: it changes nothing, and begins no second run."""

from runstore.adapters import tombstones
from runstore.archive.erasing import Eraser
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.projector import Projector
from tests.archive.site import Attic, doors
from tests.projector.builders import run_id_of

LATE = [("running", {}), ("success", {"output": {"stdout": "late"}}), ("failed", {"error_message": "worker lost"})]


async def test_a_late_event_of_an_archived_run_changes_nothing(attic: Attic) -> None:
    [run_id] = await attic.ended([1])
    await attic.archiver.turn()
    before = await attic.both.runs.get_archived(run_id)

    for status, fields in [*LATE, ("pending", {}), ("running", {"project_name": "other"})]:
        await attic.tell(run_id, status, **fields)
        await attic.projector.drain()

    assert await attic.store.runs.get_many([run_id]) == [None]
    assert await attic.both.runs.get_archived(run_id) == before
    assert await attic.walk(10) == [run_id]
    stats = await attic.store.client.execute_command("HGETALL", attic.store.meta.keys_of(run_id).stats)
    assert (stats[b"ignored"], stats[b"late"]) == (b"5", b"5")


async def test_a_late_event_among_others_leaves_them_alone(shed: Attic) -> None:
    [old] = await shed.ended([1])
    await shed.archiver.turn()
    fresh = [run_id_of(number) for number in range(2, 40)]

    for run_id in [*fresh, old, *fresh]:
        await shed.tell(run_id, "running" if run_id != old else "failed")
    await shed.projector.drain()

    assert all(await shed.store.runs.get_many(fresh))
    assert await shed.store.runs.get_many([old]) == [None]


async def test_a_projector_that_was_at_work_before_the_run_left_knows_of_it(shed: Attic) -> None:
    [run_id] = await shed.ended([1])
    frozen = Projector(shed.store, archive=shed.archive)
    await frozen.drain()
    head = frozen._partitions[shed.projector._reader._partition_of[shed.store.meta.keys_of(run_id).events]]
    assert head._standing is not None
    await shed.archiver.turn()

    await shed.tell(run_id, "running")
    await frozen.drain()

    assert await shed.store.runs.get_many([run_id]) == [None]


async def test_a_run_that_is_asked_for_by_a_key_of_one_that_left_is_that_one(attic: Attic) -> None:
    body = {"project_name": "forecasts", "inputs": {"a": 1}}
    async with attic.projector, doors(attic) as site:
        first = await site.post("/v1/runs", body, headers={"Idempotency-Key": "once"})
        chosen = await site.post("/v1/runs", {**body, "run_id": run_id_of(7)})
        for run_id in (first.json()["run_id"], chosen.json()["run_id"]):
            await site.publish(run_id, status="success")
        await attic.archiver.turn()

    async with attic.projector, doors(attic) as site:
        again = await site.post("/v1/runs", body, headers={"Idempotency-Key": "once"})
        other = await site.post("/v1/runs", {**body, "inputs": {}}, headers={"Idempotency-Key": "once"})
        chosen_again = await site.post("/v1/runs", {**body, "run_id": run_id_of(7)})

    assert (again.status, again.json()["run_id"], again.json()["status"]) == (202, first.json()["run_id"], "success")
    assert other.code == "idempotency_conflict"
    assert chosen_again.json()["run_number"] == chosen.json()["run_number"] == 2
    assert await attic.store.runs.get_many([RunId(first.json()["run_id"])]) == [None]


async def test_a_token_that_may_not_write_the_project_of_an_archived_run_learns_nothing(shed: Attic) -> None:
    [run_id] = await shed.ended([1])
    await shed.archiver.turn()

    async with doors(shed) as site:
        token = await site.token(Scope.PUBLISH, projects=("other",))
        path = f"/v1/runs/{run_id}/transitions"
        there = await site.post(path, {"status": "running", "project_name": "other"}, token=token)

    assert there.code == "run_not_found"


async def test_nothing_begins_an_erased_run_again(attic: Attic) -> None:
    archived, here = await attic.ended([1, 2])
    await attic.archiver.move_batch([r for r in await attic.store.runs.get_many([archived]) if r is not None])
    for run_id in (archived, here):
        await Eraser(attic.store, attic.archive).run(run_id)

    for run_id in (archived, here):
        for status, fields in LATE:
            await attic.tell(run_id, status, **fields)
    await attic.projector.drain()

    assert await attic.walk(10) == []
    assert await attic.store.runs.get_many([archived, here]) == [None, None]


async def test_numbers_go_on_when_numbered_runs_have_left(shed: Attic) -> None:
    for number in range(1, 6):
        await shed.tell(run_id_of(number), "pending", numbered=True, request={"inputs": {}})
        await shed.tell(run_id_of(number), "success")
    await shed.projector.drain()
    await shed.archiver.turn()

    await shed.tell(run_id_of(9), "pending", numbered=True, request={"inputs": {}})
    await shed.projector.drain()

    [record] = await shed.store.runs.get_many([run_id_of(9)])
    assert record is not None
    assert record.run.run_number == 6
    left = [await shed.both.runs.get_archived(run_id_of(number)) for number in range(1, 6)]
    assert sorted(record.run.run_number or 0 for record in left if record is not None) == [1, 2, 3, 4, 5]


async def test_a_run_begun_by_a_request_asks_neither_filter_nor_archive(shed: Attic) -> None:
    first, second, third = (run_id_of(number, partition=3) for number in (1, 2, 3))
    await shed.tell(first, "success")
    await shed.projector.drain()
    await shed.archiver.turn()
    await shed.projector.drain()
    asked: list[object] = []
    plain = shed.store.client.plain

    async def noting(*args: object, **options: object) -> object:
        asked.append(args[1])
        return await plain(*args, **options)

    shed.store.client.plain = noting  # type: ignore[method-assign]
    requests = shed.archive.objects.requests
    await shed.tell(second, "pending", request={"inputs": {}})
    await shed.tell(second, "running")
    await shed.projector.drain()
    quietly = list(asked)
    await shed.tell(third, "running")
    await shed.projector.drain()

    assert all(await shed.store.runs.get_many([second, third]))
    assert tombstones._PERHAPS.sha not in quietly
    assert tombstones._PERHAPS.sha in asked
    assert shed.archive.objects.requests == requests
