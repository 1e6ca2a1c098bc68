"""Many waits from one process: one client, one connection, no command while idle."""

import asyncio
import time
from pathlib import Path
from typing import Any

from runstore.bench.figures import Found
from runstore.bench.stage import Stage, connected, cpu_s, event, new_id, stream
from runstore.client import AsyncClient

TITLE = "many waits from one process"
_IDLE_S = 30.0
"""A whole period of all that is done by the clock: the tail proves its places every half minute."""


async def measure(stage: Stage) -> Found:
    """Wait for runs at once, do nothing for a while, then end them all."""
    found, count = Found(), stage.some(10_000, 1_000)
    async with stage.store() as store, connected(stage.redis_url) as redis:
        token = await stage.token(store)
        with stage.projector(), stage.gateway() as gateway:
            async with AsyncClient(gateway.url, token=token) as client:
                run_ids = [new_id() for _ in range(count)]
                await _tell(redis, [(run_id, "running") for run_id in run_ids])
                waits = [asyncio.ensure_future(client.wait(run_id, timeout_s=300)) for run_id in run_ids]
                await _all_subscribed(gateway.pid)
                idle = await _commands(redis, _IDLE_S)
                connections = _connections(gateway.pid)
                began = time.perf_counter()
                await _tell(redis, [(run_id, "failed") for run_id in run_ids])
                heard = await asyncio.wait_for(asyncio.gather(*waits), 300)
                took_s = time.perf_counter() - began
            without = await _commands(redis, _IDLE_S)
    ended = sum(run.status == "failed" for run in heard)
    found.ours(f"heard of {count:,}", "runs", [float(ended)])
    found.ours("from the first end to the last wait", "s", [took_s])
    found.ours("connections of the gateway's clients", "", [float(connections)])
    found.ours("Redis commands while all wait", "a second", [idle])
    found.yardstick("the same processes with no wait", "a second", [without])
    found.at_least(count, "heard", [float(ended)])
    found.at_most(1, "connections", [float(connections)])
    found.at_most(1.05, "commands a second: while all wait / with no wait", [idle], [without])
    return found


async def _tell(redis: Any, told: list[tuple[Any, str]]) -> None:
    for begin in range(0, len(told), 500):
        pipe = redis.pipeline(transaction=False)
        for run_id, status in told[begin : begin + 500]:
            pipe.xadd(stream(run_id), {"event": event(run_id, status)})
        await pipe.execute()


async def _commands(redis: Any, seconds: float) -> float:
    before = (await redis.info("stats"))["total_commands_processed"]
    await asyncio.sleep(seconds)
    return float((await redis.info("stats"))["total_commands_processed"] - before - 1) / seconds


async def _all_subscribed(pid: int) -> None:
    """Wait until the gateway has nothing more to do: all waits have been told of, and looked up."""
    busy, last = True, cpu_s(pid)
    while busy:
        await asyncio.sleep(1.0)
        busy, last = cpu_s(pid) - last > 0.05, cpu_s(pid)


def _connections(pid: int) -> int:
    """Count the connections that were made to the ports that a process listens on."""
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if f"socket:[{row[9]}]" in inodes]
    listening = {row[1].rpartition(":")[2] for row in ours if row[3] == "0A"}
    return sum(row[3] == "01" and row[1].rpartition(":")[2] in listening for row in ours)
