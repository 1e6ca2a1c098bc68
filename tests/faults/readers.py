"""`python -m tests.faults.readers`: a thousand websockets that never read, beside a thousand that do.

Everybody subscribes to one project. First the readers hear it alone, then beside those who never read, until these were
cut off and for as long after it. Printed is how long an event took to the readers in each, and how much memory the
gateway came to need.
"""

import argparse
import asyncio
import select
import signal
import socket
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from runstore import AsyncPublisher
from tests.faults.figures import rss_mib, show
from tests.faults.lives import TOKEN
from tests.faults.site import Site, site
from tests.faults.swarm import HELLO, masked
from tests.faults.swarms import Swarms, all_subscribed, let_open_many_files, swarms

PROJECT: Final = "crowd"
_SUBSCRIPTION: Final = {"project_name": PROJECT}
_UNLIMITED: Final = {"RUNSTORE_GATEWAY_CONNECTIONS_PER_ADDRESS": "0", "RUNSTORE_GATEWAY_CONNECTIONS_PER_TOKEN": "0"}
_MOST_TIMES: Final = 50


class Figures(msgspec.Struct, kw_only=True):
    """What a play showed."""

    readers: int
    never: int
    message_kib: float
    a_second: float
    events: int = 0
    alone_p50_ms: float = 0.0
    alone_p99_ms: float = 0.0
    beside_p50_ms: float = 0.0
    beside_p99_ms: float = 0.0
    after_p50_ms: float = 0.0
    after_p99_ms: float = 0.0
    missed: int = 0
    cut_off: int = 0
    cut_off_after_s: float = 0.0
    gateway_before_mib: int = 0
    gateway_most_mib: int = 0
    gateway_after_mib: int = 0


class Play:
    """One play: tells events, and notes what they took."""

    def __init__(self, publisher: AsyncPublisher, readers: Swarms, figures: Figures, gateway: int) -> None:
        self._publisher, self._readers, self._figures, self._gateway = publisher, readers, figures, gateway
        self._text = "x" * int(figures.message_kib * 1024)

    async def tell(self) -> None:
        """Publish the end of a run, one every so often."""
        began = monotonic()
        await self._publisher.publish(str(uuid4()), "failed", error_message=f"{began} {self._text}")
        self._figures.events += 1
        if self._figures.events % 5 == 0:
            self._figures.gateway_most_mib = max(self._figures.gateway_most_mib, rss_mib(self._gateway))
        await asyncio.sleep(max(0.0, began + 1 / self._figures.a_second - monotonic()))

    async def took_ms(self) -> tuple[float, float]:
        """Wait until all readers heard all that was told, and return the median and the 99th percentile since last."""
        wanted = self._figures.readers * self._figures.events
        took: list[float] = []
        async with asyncio.timeout(120):
            while True:
                counts = await self._readers.ask()
                took += [one for each in counts for one in each.took_s]
                if sum(sum(each.heard.values()) for each in counts) == wanted:
                    break
                await asyncio.sleep(0.2)
        took.sort()
        return took[len(took) // 2] * 1000, took[len(took) * 99 // 100] * 1000


async def play(folder: Path, *, figures: Figures, events: int) -> Figures:
    """Play it once, and return the figures: `events` alone, then as many as it takes to cut off who never reads."""
    let_open_many_files(figures.readers + figures.never + 500)
    async with site(folder) as made:
        return await _play(made, figures, events)


async def _play(made: Site, figures: Figures, events: int) -> Figures:
    made.start("projector")
    gateway = made.start_gateway(**_UNLIMITED)
    pid = gateway.process.pid
    async with (
        swarms(gateway.url, [_SUBSCRIPTION] * figures.readers, processes=1) as readers,
        AsyncPublisher(made.lives.url, PROJECT) as publisher,
    ):
        await readers.until(all_subscribed)
        play = Play(publisher, readers, figures, pid)
        for _ in range(events):
            await play.tell()
        figures.alone_p50_ms, figures.alone_p99_ms = await play.took_ms()
        figures.gateway_before_mib = figures.gateway_most_mib = rss_mib(pid)

        stuck = [await asyncio.to_thread(_subscribe_and_never_read, gateway.url) for _ in range(figures.never)]
        began, told = monotonic(), 0
        while (left := _cut_off(stuck) < figures.never - figures.never // 50) or told < events:
            await play.tell()
            told += 1
            if left:
                figures.cut_off_after_s = monotonic() - began
            if told > _MOST_TIMES * events:
                break
        figures.beside_p50_ms, figures.beside_p99_ms = await play.took_ms()
        figures.cut_off = _cut_off(stuck)
        figures.gateway_after_mib = rss_mib(pid)

        for _ in range(events):
            await play.tell()
        figures.after_p50_ms, figures.after_p99_ms = await play.took_ms()
        counts = await readers.ask()
        figures.missed = figures.readers * figures.events - sum(sum(each.heard.values()) for each in counts)
        for each in stuck:
            each.close()
    gateway.process.send_signal(signal.SIGTERM)
    return figures


def _subscribe_and_never_read(url: str) -> socket.socket:
    """Open a websocket by hand, with a small buffer, subscribe to the project and read nothing after the handshake."""
    where = urlsplit(url)
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    made.connect((where.hostname, where.port))
    made.sendall(HELLO.format(host=where.netloc, token=TOKEN).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += made.recv(1)
    assert b" 101 " in answer, answer
    made.sendall(masked(1, msgspec.json.encode({"type": "subscribe", "id": "n", **_SUBSCRIPTION})))
    return made


def _cut_off(stuck: list[socket.socket]) -> int:
    """Count whose kernel was told that the connection is no more; whoever reads nothing hears of it in no other way."""
    heard = select.poll()
    for each in stuck:
        heard.register(each, 0)
    return len(heard.poll(0))


def main() -> None:
    """Play with what the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--never", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=100, help="to be heard alone, and beside and after at least")
    parser.add_argument("--a-second", type=float, default=5.0)
    parser.add_argument("--message-kib", type=float, default=2.0)
    told = parser.parse_args()
    figures = Figures(readers=told.readers, never=told.never, message_kib=told.message_kib, a_second=told.a_second)
    with tempfile.TemporaryDirectory(prefix="runstore-readers-") as folder:
        show(asyncio.run(play(Path(folder), figures=figures, events=told.events)))


if __name__ == "__main__":
    main()
