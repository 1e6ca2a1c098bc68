"""Fan-out: CPU of the server a message, one event to many sockets, and a message of its own to each."""

import asyncio
from typing import Any

import aiohttp

from runstore.bench.figures import Found
from runstore.bench.load import Counter, Listener, listen
from runstore.bench.stage import PROJECT, Process, Stage, connected, event, new_id, stream

TITLE = "push fan-out, one event to N sockets; unique messages to N sockets"
_TEXT = '{"type":"run","id":"a","cursor":"%s","run":%s}'


async def measure(stage: Stage) -> Found:
    """Push to sockets that only count; the yardstick is aiohttp's `send_str` to each of as many."""
    found = Found()
    shared: dict[int, list[float]] = {}
    plain: dict[int, list[float]] = {}
    sizes = [100, stage.some(1_000, 300)]
    async with stage.store() as store, connected(stage.redis_url) as redis, aiohttp.ClientSession() as http:
        token = await stage.token(store)
        with (
            stage.projector(),
            stage.gateway() as gateway,
            stage.process(stage.redis_url, module="runstore.bench.bare") as yardstick,
        ):
            subscribe = b'{"type":"subscribe","id":"a","project_name":"%s"}' % PROJECT.encode()
            for size in sizes:
                times = max(5, 20_000 * stage.some(100) // 100 // size)
                for _ in range(stage.rounds):
                    counter = Counter()
                    sockets = await _open(gateway, "/v1/ws", counter, [subscribe] * size, token)
                    await counter.reach(size)
                    shared.setdefault(size, []).append(await _tell(redis, gateway, counter, size, times))
                    await _close(sockets)
                    other = Counter()
                    sockets = await _open(yardstick, "/ws", other, [b""] * size, None)
                    plain.setdefault(size, []).append(await _tell_plain(http, yardstick, other, size, times))
                    await _close(sockets)
            unique = [await _each_its_own(redis, gateway, token, sizes[-1]) for _ in range(stage.rounds)]
    for size in sizes:
        found.ours(f"one event to {size} sockets", "µs CPU a message", shared[size])
        found.yardstick(f"aiohttp send_str to {size}", "µs CPU a message", plain[size])
    found.ours(f"a run of its own, and done, to each of {sizes[-1]}", "µs CPU a message", unique)
    found.at_most(9.0, f"µs a message to {sizes[-1]} sockets", shared[sizes[-1]])
    found.at_most(1.0, "runstore / send_str", shared[sizes[-1]], plain[sizes[-1]])
    found.at_most(12.0, "µs a unique message", unique)
    return found


async def _open(server: Process, path: str, counter: Counter, hellos: list[bytes], token: str | None) -> list[Listener]:
    sockets = []
    for hello in hellos:
        socket = await listen(server.url, path, counter, token=token)
        if hello:
            socket.send(hello)
        sockets.append(socket)
    return sockets


async def _close(sockets: list[Listener]) -> None:
    for socket in sockets:
        socket.transport.abort()
    await asyncio.sleep(0.2)  # for the server to see it


async def _tell(redis: Any, server: Process, counter: Counter, size: int, times: int) -> float:
    began = server.cpu_s()
    for _ in range(times):
        run_id = new_id()
        heard = counter.frames + size
        await redis.xadd(stream(run_id), {"event": event(run_id, "failed", error_message="no answer")})
        await counter.reach(heard)
    return (server.cpu_s() - began) / (times * size) * 1e6


async def _tell_plain(http: aiohttp.ClientSession, server: Process, counter: Counter, size: int, times: int) -> float:
    text = _TEXT % ("x" * 80, "y" * 330)
    began = server.cpu_s()
    for _ in range(times):
        heard = counter.frames + size
        async with http.post(server.url + "/tell", data=text) as response:
            response.raise_for_status()
        await counter.reach(heard)
    return (server.cpu_s() - began) / (times * size) * 1e6


async def _each_its_own(redis: Any, server: Process, token: str, size: int) -> float:
    """Push runs that one socket each has subscribed to, one subscription a run: what comes is the run, then `done`."""
    counter, each = Counter(), 10
    run_ids = [[new_id() for _ in range(each)] for _ in range(size)]
    sockets = await _open(server, "/v1/ws", counter, [b""] * size, token)
    for socket, ids in zip(sockets, run_ids, strict=True):
        for place, run_id in enumerate(ids):
            socket.send(b'{"type":"subscribe","id":"%d","run_ids":["%s"]}' % (place, run_id.encode()))
    await counter.reach(size * each)
    began = server.cpu_s()
    for place in range(each):
        pipe = redis.pipeline(transaction=False)
        for ids in run_ids:
            pipe.xadd(stream(ids[place]), {"event": event(ids[place], "failed", error_message="no answer")})
        await pipe.execute()
    await counter.reach(3 * size * each)
    took = (server.cpu_s() - began) / (2 * size * each) * 1e6
    await _close(sockets)
    return took
