"""Those who want the same of a project are told together, each what it wants, and nothing once it closes."""

import asyncio
from contextlib import AsyncExitStack

from runstore.gateway.outbox import Message
from runstore.gateway.socket_streams import STREAMS
from tests.gateway.push.stage import Stage, new_run, until


async def test_all_who_want_the_same_hear_it_and_share_one_listener(stage: Stage) -> None:
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(stage.socket()) for _ in range(5)]
        for socket in sockets:
            await socket.subscribe(project_name="forecasts")
            await socket.hear("subscribed")
        audiences, run_id = len(stage.gateway.services.audiences), new_run()
        await stage.publish(run_id, "failed")
        heard = [await socket.hear("run") for socket in sockets]

    assert audiences == 1
    assert heard == [heard[0]] * 5
    assert heard[0]["run"]["run_id"] == run_id
    await until(lambda: not len(stage.gateway.services.audiences) and not stage.tail.hub.interests)


async def test_each_hears_what_it_wants_under_its_own_name(stage: Stage) -> None:
    wishes = [("a", {}), ("b", {}), ("c", {"events": "all"}), ("d", {"output": False})]
    async with stage.socket() as socket:
        for name, wish in wishes:
            await socket.subscribe(name, project_name="forecasts", **wish)
            await socket.hear("subscribed")
        run_id = new_run()
        await stage.publish(run_id, "running")
        first = await socket.hear("run")
        await stage.publish(run_id, "success", output={"stdout": "x"})
        ends = {(end := await socket.hear("run"))["id"]: end["run"] for _ in wishes}

    assert (first["id"], first["run"]["status"]) == ("c", "running")
    assert {name: bool(run["output"]) for name, run in ends.items()} == {"a": True, "b": True, "c": True, "d": False}


async def test_who_has_left_hears_nothing_while_the_others_do(stage: Stage) -> None:
    async with stage.socket() as leaving, stage.socket() as staying:
        for socket in (leaving, staying):
            await socket.subscribe(project_name="forecasts")
            await socket.hear("subscribed")
        await leaving.tell(type="unsubscribe", id="a")
        await leaving.subscribe("b", project_name="secrets")
        await leaving.hear("subscribed")
        await stage.publish(new_run(), "failed")
        await staying.hear("run")
        run_id = new_run()
        await stage.publish(run_id, "failed", project_name="secrets")

        heard = await leaving.hear()

    assert (heard["id"], heard["run"]["run_id"]) == ("b", run_id)


async def test_nothing_goes_out_after_a_close_frame(stage: Stage) -> None:
    async with stage.socket() as socket:
        await socket.subscribe(project_name="forecasts")
        await socket.hear("subscribed")
        (connection,) = stage.gateway._runner.app[STREAMS]._open  # type: ignore[union-attr]
        closing = asyncio.create_task(connection._ws.close())  # type: ignore[attr-defined]
        await until(lambda: connection._ws.closed)  # type: ignore[attr-defined]
        connection.offer(Message(b'{"type":"late"}'))  # type: ignore[attr-defined]

        last = await socket.ws.receive()
        await closing

    assert last.type.name == "CLOSE"
