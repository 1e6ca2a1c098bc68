"""A gateway that stops: nothing that a socket was to hear is thrown away, and they do not all come back at once."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.gateway.push.stage import SOON_S, Socket, Stage, new_run, staged, stuck, until


async def test_what_a_socket_was_to_hear_is_sent_before_the_gateway_closes_it(stage: Stage) -> None:
    stage.configure_streams(finish_s=SOON_S)
    runs = [new_run() for _ in range(100)]
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=runs)
        await socket.hear("subscribed")
        for run_id in runs:
            await stage.publish(run_id, "failed", error_message="x" * 30_000)

        stopping = asyncio.create_task(stage.gateway.stop())
        heard = [await socket.hear("run") for _ in runs]
        await socket.hear("done")
        code = await socket.closed()
        await stopping

    assert code == 1001
    assert [told["run"]["run_id"] for told in heard] == runs


async def test_one_who_does_not_read_holds_up_no_stop(stage: Stage) -> None:
    stage.configure_streams(finish_s=0.1, close_s=0.1)
    async with stuck(stage) as never:
        for _ in range(30):
            await stage.publish(new_run(), "failed", error_message="x" * 100_000)

        await asyncio.wait_for(stage.gateway.stop(), SOON_S)

        never.resume()
        assert await never.socket.closed() in {1001, 1006}


@pytest.mark.slow
async def test_sockets_are_closed_one_crowd_after_the_other_and_hear_their_runs_until_then(redis_url: str) -> None:
    run_id = new_run()
    async with staged(redis_url, shutdown_s=12.0) as stage, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(stage.socket()) for _ in range(90)]
        for socket in sockets:
            await socket.subscribe(run_ids=[run_id])
            await socket.hear("subscribed")

        ends = [asyncio.create_task(_heard(socket)) for socket in sockets]
        stopping = asyncio.create_task(stage.gateway.stop())
        await until(lambda: stage.open_streams <= 40)
        await stage.publish(run_id, "success")
        kinds = await asyncio.gather(*ends)
        await stopping

    assert sorted(kinds, key=len) == [[1001]] * 50 + [["run", "done", 1001]] * 40


async def _heard(socket: Socket) -> list[Any]:
    """Return what kinds of messages come, and the code of the close."""
    heard: list[Any] = []
    async with asyncio.timeout(SOON_S):
        async for message in socket.ws:
            heard.append(message.json()["type"])
    return [*heard, int(socket.ws.close_code or 0)]
