"""Push latency: from the `XADD` of a terminal event to the websocket message, one at a time."""

import asyncio
import time
from typing import Any

import aiohttp

from runstore.bench import plain
from runstore.bench.figures import Found, percentile
from runstore.bench.stage import PROJECT, Stage, connected, new_id, story, stream

TITLE = "push latency, `XADD` of a terminal event to the websocket message, one at a time"


async def measure(stage: Stage) -> Found:
    """Publish and hear, one run after another, in turns with the plain program; each has processes of its own."""
    found, each = Found(), stage.some(400, 40)
    p50: dict[bool, list[float]] = {True: [], False: []}
    p99: dict[bool, list[float]] = {True: [], False: []}
    async with stage.store() as store, connected(stage.redis_url) as redis, aiohttp.ClientSession() as http:
        token = await stage.token(store)
        with (
            stage.projector(),
            stage.gateway() as gateway,
            stage.process("reader", stage.redis_url, module="runstore.bench.plain"),
            stage.process("door", stage.redis_url, module="runstore.bench.plain") as door,
        ):
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                http.ws_connect(gateway.url + "/v1/ws", headers=headers, protocols=("runstore.v1",)) as ours,
                http.ws_connect(door.url + "/ws") as theirs,
            ):
                await ours.send_json({"type": "subscribe", "id": "a", "project_name": PROJECT})
                await ours.receive_json()
                for turn in range(stage.rounds + 1):
                    for is_ours, socket in ((True, ours), (False, theirs)):
                        times = [await _hear(redis, socket, is_ours=is_ours) for _ in range(each)]
                        if turn:
                            p50[is_ours].append(percentile(times, 50))
                            p99[is_ours].append(percentile(times, 99))
    found.ours("p50", "ms", p50[True])
    found.yardstick("plain, p50", "ms", p50[False])
    found.ours("p99", "ms", p99[True])
    found.yardstick("plain, p99", "ms", p99[False])
    found.at_most(1.3, "p50: runstore / plain", p50[True], p50[False])
    found.at_most(1.5, "p99: runstore / plain", p99[True], p99[False])
    return found


async def _hear(redis: Any, socket: aiohttp.ClientWebSocketResponse, *, is_ours: bool) -> float:
    run_id = new_id()
    _, end = story(run_id)
    began = time.perf_counter()
    await redis.xadd(stream(run_id) if is_ours else plain.EVENTS, {"event": end})
    async with asyncio.timeout(10):
        while run_id not in (await socket.receive()).data:
            pass
    return (time.perf_counter() - began) * 1000
