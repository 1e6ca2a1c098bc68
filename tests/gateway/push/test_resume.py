"""Resuming by cursor misses nothing; what cannot be served is said."""

import random
from collections import defaultdict
from typing import Any

import pytest
import redis.asyncio

from runstore.core.cursor import Place
from runstore.core.status import TERMINAL, Status
from runstore.wire.cursor import decode_cursor, encode_cursor
from tests.gateway.push.stage import Socket, Stage, new_run

STEPS = ("pending", "running", "success")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by", ["project", "runs"])
async def test_with_disconnects_anywhere_every_step_is_heard_in_order(stage: Stage, seed: int, by: str) -> None:
    dice = random.Random(seed)
    runs = [new_run() for _ in range(12)]
    left = {run_id: list(STEPS) for run_id in runs}
    heard: dict[str, list[str]] = defaultdict(list)
    named: dict[str, Any] = {"project_name": "forecasts"} if by == "project" else {"run_ids": runs}
    async with stage.socket() as socket:
        await socket.subscribe(events="all", **named)
        cursor = (await socket.hear("subscribed"))["cursor"]
    while any(left.values()):
        await _publish_some(stage, dice, left)
        async with stage.socket() as socket:
            await socket.subscribe(events="all", cursor=cursor, **named)
            cursor = (await socket.hear("subscribed"))["cursor"]
            await _publish_some(stage, dice, left)
            for _ in range(dice.randrange(4)):
                await socket.tell(type="unsubscribe", id="mark")  # answered at once: tells that nothing is held back
                told = await socket.hear()
                if told["type"] == "run":
                    heard[told["run"]["run_id"]].append(told["run"]["status"])
                    cursor = told["cursor"]
    async with stage.socket() as socket:
        await socket.subscribe(events="all", cursor=cursor, **named)
        while not all("success" in heard[run_id] for run_id in runs):
            told = await socket.hear()
            if told["type"] == "run":
                heard[told["run"]["run_id"]].append(told["run"]["status"])

    for run_id in runs:
        first = [heard[run_id].index(step) for step in STEPS]
        assert first == sorted(first)


async def _publish_some(stage: Stage, dice: random.Random, left: dict[str, list[str]]) -> None:
    for _ in range(dice.randrange(1, 6)):
        open_runs = [run_id for run_id, steps in left.items() if steps]
        if open_runs:
            run_id = dice.choice(open_runs)
            await stage.publish(run_id, left[run_id].pop(0), fold=dice.random() < 0.5)
    await stage.tail.reached(await _log_ends(stage))


async def _log_ends(stage: Stage) -> tuple[Place, ...]:
    """Places behind everything that was published."""
    ends = []
    for place in stage.tail.whole_cursor():
        sight = await stage.store.feed.sight(place)
        ends.append(Place(partition=place.partition, epoch=place.epoch, entry=sight.log_end))
    return tuple(ends)


async def test_several_runs_of_one_commit_are_not_claimed_before_they_were_pushed(stage: Stage) -> None:
    runs = _of_one_partition(stage, 5)
    async with stage.socket() as socket:
        await socket.subscribe(project_name="forecasts")
        await socket.hear("subscribed")
        await stage.projector.stop()
        for run_id in runs:
            await stage.publish(run_id, "success", fold=False)
        await stage.project_again()
        pushed = [await socket.hear("run") for _ in runs]
    again = []
    for told in pushed:
        async with stage.socket() as socket:
            await socket.subscribe(project_name="forecasts", cursor=told["cursor"])
            await socket.hear("subscribed")
            await socket.tell(type="unsubscribe", id="nothing")
            again.append({one["run"]["run_id"] for one in await socket.hear_until("error") if one["type"] == "run"})

    for number, heard_again in enumerate(again, 1):
        assert set(runs[number:]) <= heard_again
    assert again[-1] == set()


def _of_one_partition(stage: Stage, count: int) -> list[str]:
    runs: list[str] = []
    while len(runs) < count:
        run_id = new_run()
        if stage.tail.partition_of(run_id) == 0:  # type: ignore[arg-type]
            runs.append(run_id)
    return runs


async def test_a_cursor_that_was_trimmed_away_is_answered_with_reset_before_anything_else(
    stage: Stage, redis_url: str
) -> None:
    runs = _of_one_partition(stage, 4)
    async with stage.socket() as socket:
        await socket.subscribe(project_name="forecasts")
        await socket.hear("subscribed")
        await stage.publish(runs[0], "success")
        cursor = (await socket.hear("run"))["cursor"]
    for run_id in runs[1:]:
        await stage.publish(run_id, "success")
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.xtrim("runstore:{0}:feed", maxlen=1, approximate=False)
    async with stage.socket() as socket:
        await socket.subscribe("p", project_name="forecasts", cursor=cursor)
        await socket.hear("subscribed")
        project = await socket.hear("reset")
        await socket.subscribe("r", run_ids=[runs[1]], cursor=cursor)
        await socket.hear("subscribed")
        of_run = [told["type"] for told in await socket.hear_until("done")]
    _, body, _ = await stage.get(f"/v1/runs?finished_after={project['since'].replace('+', '%2B')}")

    assert all(run_id in body.decode() for run_id in runs)
    assert of_run == ["reset", "run", "done"]


@pytest.mark.parametrize(
    "change", [{"epoch": b"else"}, {"nonce": b"another!"}, {"n": 10**6}, {"n": -5}, {"n": 2**64 - 1}]
)
async def test_a_place_that_the_store_never_had_is_answered_with_reset(stage: Stage, change: dict[str, Any]) -> None:
    import msgspec

    run_id = _of_one_partition(stage, 1)[0]
    await stage.publish(run_id, "success")
    place = msgspec.structs.replace(stage.tail.place(0), **change)
    async with stage.socket() as socket:
        await socket.subscribe(project_name="forecasts", cursor=encode_cursor((place,)))
        await socket.hear("subscribed")
        told = await socket.hear()

    assert told["type"] == "reset"


async def test_the_cursor_of_a_published_event_resumes_behind_it(stage: Stage) -> None:
    first, second = _of_one_partition(stage, 2)
    event = b'{"run_id":"%b","status":"success","project_name":"forecasts"}'
    entry = await stage.store.log.append(first, event % first.encode())  # type: ignore[arg-type]
    await stage.tail.passed(0, entry)
    await stage.publish(second, "success")
    place = Place(partition=0, epoch=stage.tail.place(0).epoch, entry=entry)
    async with stage.socket() as socket:
        await socket.subscribe(project_name="forecasts", cursor=encode_cursor((place,)))
        await socket.hear("subscribed")
        told = await socket.hear("run")

    assert told["run"]["run_id"] == second


async def test_a_lost_store_is_told_with_reset_and_the_new_one_is_heard(stage: Stage, redis_url: str) -> None:
    kept, project = new_run(), new_run()
    async with stage.socket() as socket:
        await stage.publish(kept, "running")
        await socket.subscribe("r", run_ids=[kept], events="all")
        await socket.subscribe("p", project_name="forecasts")
        heard = [await socket.hear() for _ in range(3)]
        await stage.projector.stop()
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            for partition in range(stage.tail.partitions):
                keys = [key async for key in client.scan_iter(f"runstore:{{{partition}}}:*")]
                if keys:
                    await client.delete(*keys)
        await stage.tail.prove()
        resets = {told["id"]: told for told in [await socket.hear("reset"), await socket.hear("reset")]}
        await stage.project_again()
        await stage.publish(kept, "success")
        await stage.publish(project, "success")
        after = await _hear_ends(socket, {("r", kept), ("p", kept), ("p", project)})

    assert [told["type"] for told in heard].count("subscribed") == 2
    assert set(resets) == {"r", "p"}
    assert all(told["since"].endswith("+00:00") for told in resets.values())
    assert after
    lost = decode_cursor(heard[0]["cursor"])[0]
    assert lost.epoch != stage.tail.place(lost.partition).epoch


async def _hear_ends(socket: Socket, wanted: set[tuple[str, str]]) -> bool:
    while wanted:
        told = await socket.hear()
        if told["type"] == "run" and Status(told["run"]["status"]) in TERMINAL:
            wanted.discard((told["id"], told["run"]["run_id"]))
    return True
