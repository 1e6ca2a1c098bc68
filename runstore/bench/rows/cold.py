"""Cold start: from the command `runstore dev` to the first push that a subscriber hears."""

import time

import aiohttp

from runstore.bench.figures import Found
from runstore.bench.stage import PROJECT, Stage, connected, new_id, story, stream

TITLE = "cold start of `runstore dev` to the first push"


async def measure(stage: Stage) -> Found:
    """Start everything in an empty folder, publish one run, and hear it."""
    found = Found()
    ready: list[float] = []
    pushed: list[float] = []
    for turn in range(stage.rounds):
        began = time.perf_counter()
        folder = str(stage.folder / f"dev-{turn}")
        with stage.process("dev", "--json", "--port", "0", "--data-dir", folder) as dev:
            ready.append(time.perf_counter() - began)
            headers = {"Authorization": f"Bearer {dev.ready['token']}"}
            async with (
                connected(dev.ready["redis_url"]) as redis,
                aiohttp.ClientSession() as http,
                http.ws_connect(dev.ready["ws_url"], headers=headers, protocols=("runstore.v1",)) as socket,
            ):
                await socket.send_json({"type": "subscribe", "id": "a", "project_name": PROJECT})
                await socket.receive_json()
                run_id = new_id()
                await redis.xadd(stream(run_id), {"event": story(run_id)[1]})
                while run_id not in (await socket.receive(timeout=20)).data:
                    pass
            pushed.append(time.perf_counter() - began)
    found.ours("ready", "s", ready)
    found.ours("first push", "s", pushed)
    found.at_most(2.5, "seconds to the first push", pushed)
    return found
