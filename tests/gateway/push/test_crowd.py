"""A crowd that comes back after its gateway was lost asks the store no more than one of it would."""

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.gateway.push.stage import Socket, Stage, new_run

CROWD = 20


def counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """Count what is asked of the store: runs looked up, places proven, stretches of the feed read."""
    asked: Counter[Any] = Counter()
    lookup, tail = stage.gateway.services.lookup, stage.tail
    record, sight, read = lookup.record, tail._sights._find, tail._reads._find

    async def count_record(run_id: Any, **reach: Any) -> Any:
        asked["run", run_id] += 1
        return await record(run_id, **reach)

    async def count_sight(place: Any) -> Any:
        asked["place", place] += 1
        return await sight(place)

    async def count_read(which: Any) -> Any:
        asked["read", which] += 1
        return await read(which)

    monkeypatch.setattr(lookup, "record", count_record)
    monkeypatch.setattr(tail._sights, "_find", count_sight)
    monkeypatch.setattr(tail._reads, "_find", count_read)
    for shared in (tail._sights, tail._reads):
        monkeypatch.setattr(shared, "_fresh_s", 60.0)
    return asked


async def resumed(stage: Stage, stack: AsyncExitStack, **message: Any) -> list[Socket]:
    sockets = [await stack.enter_async_context(stage.socket()) for _ in range(CROWD)]
    for socket in sockets:
        await socket.subscribe("a", **message)
    return sockets


@pytest.mark.parametrize("events", ["terminal", "all"])
async def test_a_crowd_that_resumes_runs_looks_each_up_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, events: str
) -> None:
    ended, open_still = new_run(), new_run()
    for run_id in (ended, open_still):
        await stage.publish(run_id, "running")
    async with stage.socket() as socket:
        await socket.subscribe("a", run_ids=[ended, open_still], events=events)
        cursor = (await socket.hear("subscribed"))["cursor"]
    await stage.publish(ended, "success")
    asked = counted(stage, monkeypatch)

    async with AsyncExitStack() as stack:
        sockets = await resumed(stage, stack, run_ids=[ended, open_still], events=events, cursor=cursor)
        heard = [await socket.hear_until("run") for socket in sockets]
        looked_up = {what: count for what, count in asked.items() if what[0] == "run"}
        await stage.publish(open_still, "failed", error_message="no")
        ends = [await socket.hear_until("done") for socket in sockets]

    assert all(told[-1]["run"]["run_id"] == ended for told in heard)
    assert all(told[-2]["run"]["status"] == "failed" for told in ends)
    assert ("run", ended) in looked_up
    assert set(looked_up) <= {("run", ended), ("run", open_still)}
    assert set(asked.values()) == {1}


async def test_a_crowd_that_resumes_a_project_reads_the_feed_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [new_run() for _ in range(5)]
    async with stage.socket() as socket:
        await socket.subscribe("a", project_name="forecasts")
        cursor = (await socket.hear("subscribed"))["cursor"]
    for run_id in runs:
        await stage.publish(run_id, "success")
    asked = counted(stage, monkeypatch)

    async with AsyncExitStack() as stack:
        sockets = await resumed(stage, stack, project_name="forecasts", cursor=cursor)
        heard = [[await socket.hear() for _ in range(1 + len(runs))] for socket in sockets]

    assert all({told["run"]["run_id"] for told in each[1:]} == set(runs) for each in heard)
    assert set(asked.values()) == {1}


async def test_who_may_have_heard_more_than_the_gateway_is_not_told_what_was_before(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    await stage.publish(run_id, "pending")
    asked = counted(stage, monkeypatch)
    async with stage.socket() as first, stage.socket() as second:
        for socket in (first, second):
            await socket.subscribe("a", run_ids=[run_id], events="all")
            await socket.hear_until("run")

    assert asked["run", run_id] == 2, "without a cursor it may come from another gateway, which was further"
