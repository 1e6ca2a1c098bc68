"""A run's end is forced into every place between joining and speaking, and is heard from each of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable

import pytest

from runstore.core.ids import RunId
from runstore.feed import Listener
from runstore.wire.record import Record
from tests.gateway.push.stage import SOON_S, Gate, Stage, new_run, until

Hear = Callable[[Stage, str], Awaitable[str]]
MOMENTS = ("before joining", "between join and look", "during the look", "after the look")


async def hear_by_socket(stage: Stage, run_id: str) -> str:
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id])
        heard = await socket.hear_until("done")
    pushed = [told["run"]["status"] for told in heard if told["type"] == "run"]
    assert len(pushed) == 1
    return str(pushed[0])


async def hear_by_events(stage: Stage, run_id: str) -> str:
    async with stage.events(f"/v1/runs/{run_id}/events") as events:
        heard = [event["data"]["status"] for event in await events.rest()]
    assert heard == ["running", "success"]
    return str(heard[-1])


async def hear_by_waiting(stage: Stage, run_id: str) -> str:
    status, body, _ = await stage.get(f"/v1/runs/{run_id}", Prefer="wait=20")
    assert status == 200
    return str(json.loads(body)["status"])


def hold_look(stage: Stage, monkeypatch: pytest.MonkeyPatch, moment: str) -> Gate:
    """Hold the first look-up after the listener joined, before or after it has read the store."""
    gate, hub, lookup = Gate(), stage.tail.hub, stage.gateway.services.lookup
    joined = asyncio.Event()
    join, record, history = hub.join, lookup.record, stage.store.runs.history

    def join_seen(listener: Listener, *, run_ids: Iterable[RunId] = (), project_name: str | None = None) -> None:
        join(listener, run_ids=run_ids, project_name=project_name)
        joined.set()

    async def hold(when: str) -> None:
        if joined.is_set() and when == moment and not gate.reached.is_set():
            await gate.hold()

    async def record_held(run_id: RunId, *, projects: frozenset[str] | None = None) -> Record | None:
        await hold("between join and look")
        found = await record(run_id, projects=projects)
        await hold("during the look")
        return found

    async def history_held(run_id: RunId) -> object:
        await hold("between join and look")
        found = await history(run_id)
        await hold("during the look")
        return found

    monkeypatch.setattr(hub, "join", join_seen)
    monkeypatch.setattr(lookup, "record", record_held)
    monkeypatch.setattr(stage.store.runs, "history", history_held)
    return gate


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("hear", [hear_by_socket, hear_by_events, hear_by_waiting])
async def test_an_end_is_heard_whenever_it_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, hear: Hear, moment: str
) -> None:
    run_id = new_run()
    await stage.publish(run_id, "running")
    if moment == "before joining":
        await stage.publish(run_id, "success")
    gate = hold_look(stage, monkeypatch, moment)
    hearing = asyncio.create_task(hear(stage, run_id))
    async with asyncio.timeout(SOON_S):
        if moment in ("between join and look", "during the look"):
            await gate.reached.wait()
            await stage.publish(run_id, "success")
            gate.opened.set()
        elif moment == "after the look":
            await until(lambda: stage.tail.hub.interests > 0)
            for _ in range(3):
                await stage.store.ping()
            await stage.publish(run_id, "success")
        heard = await hearing

    assert heard == "success"
