"""`python -m tests.faults.crowd`: ten thousand websockets lose their gateway at once, and resume at the next one.

Each socket subscribes to two runs. A third of the runs end while all is well, the gateway is killed (-9), a third end
while nobody hears them, another gateway is started on the same port, and the rest end when all have come back. Every
socket must hear the ends of both its runs. Printed is how long it took, and what it cost Redis.
"""

import argparse
import asyncio
import json
import resource
import signal
import socket
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import aiohttp
import msgspec
import redis

from runstore import AsyncPublisher, ClientConfig
from runstore.client.backoff import pause_s
from tests.faults.lives import TOKEN
from tests.faults.site import Site, site

AT_ONCE: Final = 100
"""Handshakes under way at first, when nobody is in a hurry."""

_BACKOFF: Final = ClientConfig()


class Figures(msgspec.Struct, kw_only=True):
    """What a play showed."""

    sockets: int
    runs: int
    opened_s: float = 0.0
    gateway_away_s: float = 0.0
    resumed_s: float = 0.0
    resumed_p50_s: float = 0.0
    missed: int = 0
    repeats: int = 0
    resets: int = 0
    put_off: int = 0
    commands: int = 0
    commands_idle: int = 0
    gateway_mib: int = 0

    @property
    def commands_a_socket(self) -> float:
        """What the resumption of one socket cost Redis, above what the same time costs it when nothing happens."""
        return (self.commands - self.commands_idle) / self.sockets


class Subscriber:
    """One socket that resumes by its cursor, as the SDK does."""

    def __init__(self, runs: list[str]) -> None:
        self.runs = runs
        self.heard: Counter[str] = Counter()
        self.resets = 0
        self.put_off = 0
        self.subscribed_at = 0.0
        self.subscribed = asyncio.Event()
        self._cursor: str | None = None

    @property
    def missing(self) -> set[str]:
        return set(self.runs) - self.heard.keys()

    async def live(self, http: aiohttp.ClientSession, url: str, entrance: asyncio.Semaphore) -> None:
        attempt = 0
        while self.missing:
            try:
                async with entrance:
                    ws = await http.ws_connect(
                        url,
                        headers={"Authorization": f"Bearer {TOKEN}"},
                        protocols=("runstore.v1",),
                        timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                    )
                    attempt = 0
                    await self._subscribe(ws)
                async with ws:
                    await self._listen(ws)
            except (aiohttp.ClientError, OSError, TimeoutError):
                attempt += 1
            self.subscribed.clear()
            if self.missing:
                await asyncio.sleep(pause_s(_BACKOFF, attempt))

    async def _subscribe(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        asked: dict[str, Any] = {"type": "subscribe", "id": "a", "run_ids": self.runs, "output": False}
        if self._cursor is not None:
            asked["cursor"] = self._cursor
        await ws.send_str(json.dumps(asked))

    async def _listen(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            told = json.loads(message.data)
            self._cursor = told.get("cursor", self._cursor)
            if told["type"] == "subscribed":
                self.subscribed_at = monotonic()
                self.subscribed.set()
            elif told["type"] == "run":
                self.heard[told["run"]["run_id"]] += 1
            elif told["type"] == "reset":
                self.resets += 1
            elif told["type"] == "error":
                self.put_off += 1
                await asyncio.sleep(_BACKOFF.put_off_s)
                await self._subscribe(ws)
            elif told["type"] == "done":
                return


async def play(folder: Path, *, sockets: int, runs: int) -> Figures:
    """Play it once, and return the figures. Raises: TimeoutError where somebody waits in vain."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert sockets < hard - 500, f"this machine allows {hard} open files"
    try:
        async with site(folder) as made:
            return await _play(made, Figures(sockets=sockets, runs=2 * runs))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _play(made: Site, figures: Figures) -> Figures:
    store = redis.Redis.from_url(made.lives.url)
    made.start("projector")
    port = _free_port()
    gateway = made.start_gateway(port, RUNSTORE_GATEWAY_CONNECTIONS_PER_ADDRESS="0")
    count = figures.runs // 2
    early, late = [str(uuid4()) for _ in range(count)], [str(uuid4()) for _ in range(count)]
    everybody = [Subscriber([early[number % count], late[number % count]]) for number in range(figures.sockets)]
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http,
        AsyncPublisher(made.lives.url, "crowd") as publisher,
    ):
        began = monotonic()
        entrance = asyncio.Semaphore(AT_ONCE)
        lives = [asyncio.create_task(each.live(http, made.gateway.ws_url, entrance)) for each in everybody]
        await _all_subscribed(everybody)
        figures.opened_s = monotonic() - began
        half = count // 2
        await _end(publisher, early[:half])
        await _heard(everybody, set(early[:half]))
        figures.gateway_mib = _rss_mib(gateway.process.pid)

        lost_at, commands = monotonic(), _commands(store)
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        entrance._value = 10**6  # from now on all of them come as they like
        for each in everybody:
            each.subscribed.clear()
        await _end(publisher, early[half:])
        await asyncio.to_thread(made.start_gateway, port, RUNSTORE_GATEWAY_CONNECTIONS_PER_ADDRESS="0")
        figures.gateway_away_s = monotonic() - lost_at
        await _all_subscribed(everybody)
        await _heard(everybody, set(early[half:]))
        times = sorted(each.subscribed_at - lost_at for each in everybody)
        figures.resumed_s, figures.resumed_p50_s = times[-1], times[len(times) // 2]
        figures.commands, elapsed_s = _commands(store) - commands, monotonic() - lost_at

        commands = _commands(store)
        await asyncio.sleep(elapsed_s)
        figures.commands_idle = _commands(store) - commands

        await _end(publisher, late)
        await asyncio.wait(lives, timeout=120)
        figures.missed = sum(len(each.missing) for each in everybody)
        figures.repeats = sum(sum(each.heard.values()) - len(each.heard) for each in everybody)
        figures.resets = sum(each.resets for each in everybody)
        figures.put_off = sum(each.put_off for each in everybody)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    store.close()
    return figures


async def _all_subscribed(everybody: list[Subscriber]) -> None:
    async with asyncio.timeout(240):
        for each in everybody:
            await each.subscribed.wait()


async def _heard(everybody: list[Subscriber], runs: set[str]) -> None:
    async with asyncio.timeout(240):
        while any(runs & each.missing for each in everybody):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # nothing tells


async def _end(publisher: AsyncPublisher, runs: list[str]) -> None:
    for first in range(0, len(runs), 100):
        await asyncio.gather(*(publisher.publish(run_id, "success") for run_id in runs[first : first + 100]))


def _commands(store: "redis.Redis") -> int:
    return int(store.info("stats")["total_commands_processed"])  # type: ignore[index, unused-ignore]


def _rss_mib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main() -> None:
    """Play with what the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=1_000, help="of each of the two kinds")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runstore-crowd-") as folder:
        figures = asyncio.run(play(Path(folder), sockets=told.sockets, runs=told.runs))
    for name, value in msgspec.structs.asdict(figures).items():
        print(f"{name:20} {value:.2f}" if isinstance(value, float) else f"{name:20} {value}")
    print(f"{'commands_a_socket':20} {figures.commands_a_socket:.2f}")


if __name__ == "__main__":
    main()
