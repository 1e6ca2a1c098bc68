"""`python -m tests.faults.readers`: a thousand websockets that never read, beside a thousand that do.

Everybody subscribes to one project. First the readers hear it alone, then beside those who never read, until these were
cut off. Printed is how long an event took to the readers in both, and how much memory the gateway came to need.
"""

import argparse
import asyncio
import base64
import json
import os
import resource
import signal
import socket
import struct
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import msgspec

from runstore import AsyncPublisher
from tests.faults.lives import TOKEN
from tests.faults.site import Site, site

PROJECT: Final = "crowd"
MESSAGE_BYTES: Final = 32 * 1024
"""So much an event tells; outbox and buffers of one who never reads hold some hundreds of such."""


class Figures(msgspec.Struct, kw_only=True):
    """What a play showed."""

    readers: int
    never: int
    events: int = 0
    alone_p50_ms: float = 0.0
    alone_p99_ms: float = 0.0
    beside_p50_ms: float = 0.0
    beside_p99_ms: float = 0.0
    missed: int = 0
    cut_off: int = 0
    gateway_before_mib: int = 0
    gateway_most_mib: int = 0
    gateway_after_mib: int = 0


class Reader:
    """One who reads, and notes how long each run took to come."""

    def __init__(self, told_at: dict[str, float]) -> None:
        self.took_s: dict[str, float] = {}
        self.subscribed = asyncio.Event()
        self._told_at = told_at

    async def live(self, http: aiohttp.ClientSession, url: str) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with http.ws_connect(url, headers=headers, protocols=("runstore.v1",)) as ws:
            await ws.send_str(json.dumps({"type": "subscribe", "id": "p", "project_name": PROJECT}))
            async for message in ws:
                if '"type":"subscribed"' in message.data:
                    self.subscribed.set()
                    continue
                begin = message.data.index('"run_id":"') + 10
                run_id = message.data[begin : begin + 36]
                self.took_s[run_id] = monotonic() - self._told_at[run_id]


async def play(folder: Path, *, readers: int, never: int, events: int, a_second: float) -> Figures:
    """Play it once, and return the figures: `events` alone, then as many as it takes to cut off who never reads."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with site(folder) as made:
            return await _play(made, Figures(readers=readers, never=never), events, 1 / a_second)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _play(made: Site, figures: Figures, events: int, every_s: float) -> Figures:
    made.start("projector")
    gateway = made.start_gateway(RUNSTORE_GATEWAY_CONNECTIONS_PER_ADDRESS="0")
    told_at: dict[str, float] = {}
    readers = [Reader(told_at) for _ in range(figures.readers)]
    stuck: list[socket.socket] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        AsyncPublisher(made.lives.url, PROJECT) as publisher,
    ):
        lives = [asyncio.create_task(each.live(http, gateway.ws_url)) for each in readers]
        for each in readers:
            await asyncio.wait_for(each.subscribed.wait(), 120)
        alone = [await _tell(publisher, told_at, every_s) for _ in range(events)]
        await _all_heard(readers, alone)
        figures.gateway_before_mib = figures.gateway_most_mib = rss_mib(gateway.process.pid)

        files = _open_files(gateway.process.pid)
        for _ in range(figures.never):
            stuck.append(await asyncio.to_thread(_subscribe_and_never_read, gateway.url))
        beside: list[str] = []
        while len(beside) < events or _open_files(gateway.process.pid) > files:
            beside.append(await _tell(publisher, told_at, every_s))
            if len(beside) % 10 == 0:
                figures.gateway_most_mib = max(figures.gateway_most_mib, rss_mib(gateway.process.pid))
            if len(beside) > 50 * events:
                break
        await _all_heard(readers, beside)
        figures.cut_off = figures.never - max(0, _open_files(gateway.process.pid) - files)
        figures.gateway_after_mib = rss_mib(gateway.process.pid)
        figures.events = len(alone) + len(beside)
        figures.missed = sum(len(told_at) - len(each.took_s) for each in readers)
        figures.alone_p50_ms, figures.alone_p99_ms = _quantiles(readers, alone)
        figures.beside_p50_ms, figures.beside_p99_ms = _quantiles(readers, beside)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    for each in stuck:
        each.close()
    gateway.process.send_signal(signal.SIGTERM)
    return figures


async def _tell(publisher: AsyncPublisher, told_at: dict[str, float], every_s: float) -> str:
    """Publish the end of a run, one every so often."""
    run_id = str(uuid4())
    told_at[run_id] = began = monotonic()
    await publisher.publish(run_id, "failed", error_message="x" * MESSAGE_BYTES)
    await asyncio.sleep(max(0.0, began + every_s - monotonic()))
    return run_id


async def _all_heard(readers: list[Reader], runs: list[str]) -> None:
    async with asyncio.timeout(120):
        while any(runs[-1] not in each.took_s for each in readers):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # nothing tells


def _subscribe_and_never_read(url: str) -> socket.socket:
    """Open a websocket by hand, with a small buffer, subscribe to the project and read nothing after the handshake."""
    where = urlsplit(url)
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    made.connect((where.hostname, where.port))
    key = base64.b64encode(os.urandom(16)).decode()
    made.sendall(
        f"GET /v1/ws HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: runstore.v1\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += made.recv(1)
    assert b" 101 " in answer, answer
    text = json.dumps({"type": "subscribe", "id": "n", "project_name": PROJECT}).encode()
    made.sendall(struct.pack("!BB4s", 0x81, 0x80 | len(text), bytes(4)) + text)
    return made


def _open_files(pid: int) -> int:
    """Count what the gateway has open; one who does not read hears nothing of being cut off, not even by the kernel."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _quantiles(readers: list[Reader], runs: list[str]) -> tuple[float, float]:
    took = sorted(each.took_s[run_id] for each in readers for run_id in runs if run_id in each.took_s)
    return took[len(took) // 2] * 1000, took[len(took) * 99 // 100] * 1000


def rss_mib(pid: int) -> int:
    """Return how much memory a process has."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def main() -> None:
    """Play with what the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--never", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=100, help="to be heard alone, and beside at least")
    parser.add_argument("--a-second", type=float, default=10.0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runstore-readers-") as folder:
        play_it = play(Path(folder), readers=told.readers, never=told.never, events=told.events, a_second=told.a_second)
        figures = asyncio.run(play_it)
    for name, value in msgspec.structs.asdict(figures).items():
        print(f"{name:20} {value:.1f}" if isinstance(value, float) else f"{name:20} {value}")


if __name__ == "__main__":
    main()
