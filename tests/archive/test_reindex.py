"""A Redis that lost everything knows again what the archive has, by one command that may be broken off and repeated."""

import pytest

from runstore.archive.archive import Archive
from runstore.archive.erasing import Eraser
from runstore.archive.reindexing import Reindexer
from runstore.core.errors import StoreUnavailable
from runstore.ports import ListQuery
from tests.archive.site import Attic, answers, many_kinds
from tests.projector.builders import run_id_of


async def emptied(attic: Attic) -> Attic:
    """Lose all that Redis has, and begin anew over the same archive."""
    await attic.store.client.execute_command("FLUSHALL")
    archive = Archive(attic.archive.objects, attic.archive.config)
    fresh = Attic(attic.store, archive)
    await fresh.projector._share()
    return fresh


async def bits(attic: Attic) -> dict[bytes, object]:
    """Read all that is kept of runs that left."""
    client, found = attic.store.client, dict[bytes, object]()
    for keys in attic.store.meta.keys:
        found[keys.archived] = await client.execute_command("HGETALL", keys.archived)
        for layer in range(3):
            found[keys.sieve(layer)] = await client.execute_command("GET", keys.sieve(layer))
    return found


async def test_what_is_in_the_archive_is_found_again_after_redis_was_emptied(attic: Attic) -> None:
    run_ids = await many_kinds(attic)
    await attic.archiver.turn()
    before = await answers(attic, run_ids)
    attic = await emptied(attic)
    assert await attic.walk(10) == []

    done = await Reindexer(attic.store, attic.archive).run()

    assert (done.projects, done.runs, done.learnt) == (2, len(run_ids), len(run_ids))
    after = await answers(attic, run_ids)
    assert {name for name in before if before[name] != after[name]} == set()


async def test_a_reindex_that_is_repeated_changes_nothing(shed: Attic) -> None:
    await shed.ended(range(1, 300))
    await shed.archiver.turn()
    known = await bits(shed)

    done = await Reindexer(shed.store, shed.archive).run()

    assert (done.runs, done.learnt, done.rows_written) == (299, 0, 0)
    assert await bits(shed) == known


async def test_a_reindex_that_is_broken_off_is_ended_by_the_next(shed: Attic) -> None:
    told = await shed.ended(range(1, 60))
    for begin in range(0, 60, 10):
        records = await shed.store.runs.get_many(told[begin : begin + 10])
        await shed.archiver.move_batch([record for record in records if record is not None])
    shed = await emptied(shed)
    rows, left = shed.archive.rows, [None] * 3

    async def fail_later(segment: object) -> object:
        if not left:
            raise StoreUnavailable("the object store went away")
        left.pop()
        return await rows(segment)  # type: ignore[arg-type]

    shed.archive.rows = fail_later  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreUnavailable):
        await Reindexer(shed.store, shed.archive).run()
    shed.archive.rows = rows  # type: ignore[method-assign]

    await Reindexer(shed.store, shed.archive).run()

    assert sorted(await shed.walk(7)) == sorted(told)
    assert all([await shed.both.runs.get_archived(run_id) for run_id in told])


async def test_after_a_reindex_no_id_and_no_number_is_given_again(shed: Attic) -> None:
    for number in range(1, 6):
        await shed.tell(run_id_of(number), "pending", numbered=True, request={"inputs": {}})
        await shed.tell(run_id_of(number), "success")
    await shed.projector.drain()
    await shed.archiver.turn()
    [erased] = await shed.ended([40])
    await Eraser(shed.store, shed.archive).run(erased)
    shed = await emptied(shed)
    done = await Reindexer(shed.store, shed.archive).run()

    await shed.tell(run_id_of(9), "pending", numbered=True, request={"inputs": {}})
    for run_id in (run_id_of(3), erased):
        await shed.tell(run_id, "running")
    await shed.projector.drain()

    found = await shed.store.runs.get_many([run_id_of(9), run_id_of(3), erased])
    assert [record.run.run_number if record is not None else None for record in found] == [6, None, None]
    assert found[1:] == [None, None]
    assert (done.erased, done.erased_unknown) == (1, 0)


async def test_an_object_that_no_row_tells_of_is_listed_after_a_reindex(shed: Attic) -> None:
    told = await shed.ended([1, 2])
    await shed.archiver.turn()
    await shed.archive.objects.delete([name async for name in shed.archive.objects.names("index")])
    shed = await emptied(shed)

    done = await Reindexer(shed.store, shed.archive).run()

    assert done.rows_written == 2
    assert sorted(await shed.walk(5, ListQuery())) == sorted(told)
