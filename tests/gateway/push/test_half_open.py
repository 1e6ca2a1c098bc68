"""A crowd behind a network that takes and gives nothing any more, and tells nobody."""

import asyncio
import gc
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from tests.faults.proxy import Proxy
from tests.faults.swarm import HELLO, PONG, TEXT, masked
from tests.gateway.push.stage import TOKEN, Stage, new_run, until, websockets

CROWD = 200
HEARTBEAT_S = 6.0
EMPTY_PING = b"\x89\x00"


@pytest.mark.slow
async def test_a_crowd_that_vanished_without_a_word_is_let_go_with_all_that_it_held(stage: Stage) -> None:
    stage.configure_streams(heartbeat_s=HEARTBEAT_S)
    ended = new_run()
    await stage.publish(ended, "success")
    before = await held(stage)
    async with Proxy(f"redis://:none@{stage.gateway.url.removeprefix('http://')}") as between:
        clients = [await subscribe(between.port, ended) for _ in range(CROWD)]
        services = stage.gateway.services
        assert (stage.open_streams, services.counts.subscriptions) == (CROWD, 2 * CROWD)

        between.go_dumb()
        await until(lambda: stage.open_streams == 0)
        assert between.connections >= CROWD - 1  # for the network they are open
        await until(lambda: is_held(stage, before))
    await asyncio.wait(clients)


async def subscribe(port: int, ended: str) -> asyncio.Task[None]:
    """Subscribe to a project, a run that has ended and one that never will; then answer pings."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told: list[dict[str, Any]] = [{"id": "p", "project_name": "forecasts"}, {"id": "r", "run_ids": [ended, new_run()]}]
    writer.write(HELLO.format(host=f"127.0.0.1:{port}", token=TOKEN).encode())
    for message in told:
        writer.write(masked(TEXT, msgspec.json.encode({"type": "subscribe", **message})))
    for word in (b'"subscribed"', b'"subscribed"', b'"success"'):
        await reader.readuntil(word)
    return asyncio.create_task(answer_pings(reader, writer))


async def answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            if EMPTY_PING in data:
                writer.write(masked(PONG, b""))


async def is_held(stage: Stage, what: dict[str, int]) -> bool:
    return await held(stage) == what


async def held(stage: Stage) -> dict[str, int]:
    """Count what a gateway may hold for those who listen, in its memory and in Redis."""
    gc.collect()
    services = stage.gateway.services
    return {
        "interests": stage.tail.hub.interests,
        "audiences": len(services.audiences),
        "subscriptions": services.counts.subscriptions,
        "websockets": len(websockets()),
        "connections": len(services.holds),
        "runs": len(services.subscribed),
        "keys": await stage.store.client.dbsize(),
    }
