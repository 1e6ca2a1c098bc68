"""A run that left is answered for as one that stayed: same words, same tags, same order, for the same people."""

import asyncio

from runstore.archive.listing import order_of
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.core.status import Status
from runstore.ports import ListQuery
from tests.archive.site import Attic, answers, doors, many_kinds
from tests.crashes.world import EVERYBODY
from tests.peer import Peer, serve
from tests.projector.builders import run_id_of
from tests.waiting import happens


async def test_every_answer_is_the_same_before_and_after_a_run_left(attic: Attic) -> None:
    run_ids = await many_kinds(attic)
    before = await answers(attic, run_ids)

    moved = await attic.archiver.turn()

    assert moved == (len(run_ids), 0)
    after = await answers(attic, run_ids)
    assert {name for name in before if before[name] != after[name]} == set()
    # each project keeps a page that is not full, for the runs to come
    assert {key for key in await attic.in_redis() if b"}:tp:" not in key} == set()


async def test_a_walk_passes_the_border_and_misses_and_repeats_nothing(attic: Attic) -> None:
    told = await attic.ended(range(1, 61))
    told += await attic.ended(range(61, 81), project="other", status="failed")
    old = await attic.archiver._oldest(2**50, 50)
    await attic.archiver.move_batch(old[::2])
    await attic.archiver.move_batch(old[1::2])

    walked = await attic.walk(7)

    assert len(walked) == len(set(walked)) == 80
    assert set(walked) == set(told)
    runs = (await attic.both.runs.list_runs(ListQuery(), None, 200)).runs
    assert walked == [run.run_id for run in sorted(runs, key=order_of, reverse=True)]
    failed = await attic.walk(3, ListQuery(statuses=frozenset({Status.FAILED})))
    assert set(failed) == set(told[60:])


async def test_a_walk_misses_and_repeats_nothing_while_runs_leave(shed: Attic) -> None:
    told = await shed.ended(range(1, 121))

    async def leave() -> None:
        await shed.archiver.move_batch(await shed.archiver._oldest(2**50, 9))

    walked = await shed.walk(8, between=leave)

    assert sorted(walked) == sorted(told)


async def test_a_walk_that_meets_a_batch_on_its_way_out_misses_nothing(shed: Attic) -> None:
    told = await shed.ended(range(1, 200))
    leaving = asyncio.create_task(shed.archiver.move(0))

    walks = [await shed.walk(20) for _ in range(6)]

    await leaving
    assert all(sorted(walk) == sorted(told) for walk in [*walks, await shed.walk(20)])


async def test_a_prefix_finds_runs_on_both_sides(attic: Attic) -> None:
    here, there = RunId("abcd0000-0000-4000-8000-000000000001"), RunId("abcd0000-0000-4000-8000-000000000002")
    beside = RunId("abcc0000-0000-4000-8000-000000000002")
    for run_id in (there, beside):
        await attic.tell(run_id, "success")
    await attic.projector.drain()
    await attic.archiver.turn()
    await attic.tell(here, "success")
    await attic.projector.drain()
    find = attic.both.runs.find

    assert await find("abcd", None, 11) == [here, there]
    assert await find("abcd0000000040008000000000000002", None, 11) == [there]
    assert await find("abcd0000000", frozenset({"forecasts"}), 1) == [here]
    assert await find("abcd", frozenset({"other"}), 11) == []
    assert await find("abcd1", None, 11) == []


async def test_nobody_sees_archived_runs_of_projects_out_of_reach(attic: Attic) -> None:
    mine, theirs = RunId("abcd0000-0000-4000-8000-000000000001"), RunId("abcd0000-0000-4000-8000-000000000002")
    await attic.tell(mine, "success", project_name="mine")
    await attic.tell(theirs, "success", project_name="theirs")
    await attic.projector.drain()
    await attic.archiver.turn()

    async with doors(attic) as site:
        token = await site.token(Scope.READ, projects=("mine",))
        assert (await site.get("/v1/runs/abcd", token=token)).json()["run_id"] == mine
        assert (await site.get(f"/v1/runs/{theirs}", token=token)).code == "run_not_found"
        listed = (await site.get("/v1/runs", token=token)).json()["runs"]
        assert [run["run_id"] for run in listed] == [mine]
        assert (await site.get("/v1/runs/abcd")).code == "ambiguous_run_id"


async def test_what_never_left_is_no_question_to_the_archive(shed: Attic) -> None:
    await shed.ended(range(1, 30))
    await shed.archiver.turn()
    await shed.ended(range(40, 60))
    asked = shed.archive.objects.requests

    async with doors(shed) as site:
        for number in range(100, 120):
            await site.get(f"/v1/runs/{run_id_of(number)}")
            await site.get(f"/v1/runs/{run_id_of(number % 20 + 40)}")

    assert shed.archive.objects.requests - asked <= 3  # the filter takes a stranger for its own now and then


async def test_a_run_that_is_known_again_in_redis_is_told_as_it_is_there(shed: Attic) -> None:
    [run_id] = await shed.ended([1])
    await shed.archiver.turn()
    record = await shed.both.runs.get_archived(run_id)
    assert record is not None
    keys = shed.store.meta.keys_of(run_id)
    await shed.store.client.execute_command(
        "HSET",
        keys.run(bytes.fromhex(run_id.replace("-", ""))),
        "p",
        "forecasts",
        "s",
        "1",
        "b",
        record.run.created_ms,
        "r",
        "1",
        "v",
        "1",
        "g",
        "0",
    )

    found = await shed.walk(5, ListQuery(statuses=frozenset({Status.SUCCESS})))

    assert found == []  # Redis says that it is running


async def test_a_caller_cannot_tell_a_run_out_of_reach_from_none_by_the_questions_it_makes(shed: Attic) -> None:
    archived, here, nobodys = (run_id_of(number, partition=3) for number in (2, 3, 77))
    await shed.tell(run_id_of(1, partition=3), "success", project_name="mine")
    await shed.tell(archived, "success", project_name="theirs")
    await shed.projector.drain()
    await shed.archiver.turn()
    await shed.tell(here, "success", project_name="theirs")
    await shed.projector.drain()
    asked = []

    async with doors(shed) as site:
        token = await site.token(Scope.READ, projects=("mine",))
        for is_kept in (False, True):
            for run_id in (archived, here, nobodys):
                if is_kept:
                    await site.get(f"/v1/runs/{run_id}")
                before = shed.archive.objects.requests
                assert (await site.get(f"/v1/runs/{run_id}", token=token)).code == "run_not_found"
                asked.append(shed.archive.objects.requests - before)

    assert asked == [1] * 6


async def test_who_subscribes_to_an_archived_run_is_told_how_it_ended(shed: Attic) -> None:
    [run_id] = await shed.ended([1], status="failed")
    await shed.archiver.turn()

    async with doors(shed) as site:
        peer = Peer()
        served = asyncio.ensure_future(serve(site.gateway.services, EVERYBODY, peer))
        peer.say(type="subscribe", id="a", run_ids=[run_id[:8]], events="terminal")
        await happens(lambda: any(said["type"] == "done" for said in peer.heard))
        peer.hang_up()
        await served

    assert [said["type"] for said in peer.heard] == ["subscribed", "run", "done"]
    assert peer.heard[1]["run"]["status"] == "failed"
    assert peer.heard[0]["unknown"] == []
