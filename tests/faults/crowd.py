"""`python -m tests.faults.crowd`: ten thousand websockets lose their gateway at once, and resume at the next one.

Each socket subscribes to two runs. A third of the runs end while all is well, the gateway is killed (-9), a third end
while nobody hears them, another gateway is started on the same port, and the rest end when all have come back. Every
socket must hear the ends of both its runs. Printed is how long it took, and what it cost Redis: played with the same
runs and other numbers of sockets, that must stay about the same.
"""

import argparse
import asyncio
import signal
import socket
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import uuid4

import msgspec
import redis

from runstore import AsyncPublisher
from tests.faults.figures import rss_mib, show
from tests.faults.site import Site, site
from tests.faults.swarm import Counts
from tests.faults.swarms import Swarms, all_subscribed, let_open_many_files, swarms

_UNLIMITED: Final = {"RUNSTORE_GATEWAY_CONNECTIONS_PER_ADDRESS": "0", "RUNSTORE_GATEWAY_CONNECTIONS_PER_TOKEN": "0"}
_OTHER_FILES: Final = 500


class Figures(msgspec.Struct, kw_only=True):
    """What a play showed."""

    sockets: int
    runs: int
    opened_s: float = 0.0
    gateway_away_s: float = 0.0
    resumed_s: float = 0.0
    resumed_p50_s: float = 0.0
    after_return_s: float = 0.0
    missed: int = 0
    repeats: int = 0
    resets: int = 0
    put_off: int = 0
    commands: int = 0
    """What Redis was asked from the loss until all had resumed and heard, above what as long costs it in peace."""

    gateway_mib: int = 0


async def play(folder: Path, *, sockets: int, runs: int) -> Figures:
    """Play it once, and return the figures. Raises: TimeoutError where somebody waits in vain."""
    let_open_many_files(sockets + _OTHER_FILES)
    async with site(folder) as made:
        return await _play(made, Figures(sockets=sockets, runs=2 * runs))


async def _play(made: Site, figures: Figures) -> Figures:
    store = redis.Redis.from_url(made.lives.url)
    made.start("projector")
    port = _free_port()
    gateway = made.start_gateway(port, **_UNLIMITED)
    count = figures.runs // 2
    early, late = [str(uuid4()) for _ in range(count)], [str(uuid4()) for _ in range(count)]
    pairs = [(early[number % count], late[number % count]) for number in range(figures.sockets)]
    before, meanwhile = set(early[: count // 2]), set(early[count // 2 :])
    asked = [{"run_ids": pair, "output": False} for pair in pairs]
    began = monotonic()
    async with swarms(made.gateway.url, asked) as crowd, AsyncPublisher(made.lives.url, "crowd") as publisher:
        await crowd.until(all_subscribed)
        figures.opened_s = monotonic() - began
        await _end(publisher, before)
        await _until_heard(crowd, pairs, before)
        figures.gateway_mib = rss_mib(gateway.process.pid)

        lost_at, commands = monotonic(), _commands(store)
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        await _end(publisher, meanwhile)
        await asyncio.to_thread(made.start_gateway, port, **_UNLIMITED)
        figures.gateway_away_s = monotonic() - lost_at
        counts = await crowd.until(all_subscribed, since=lost_at)
        times = sorted(moment - lost_at for each in counts for moment in each.subscribed_at)
        figures.resumed_s, figures.resumed_p50_s = times[-1], times[len(times) // 2]
        figures.after_return_s = figures.resumed_s - figures.gateway_away_s
        await _until_heard(crowd, pairs, meanwhile)
        figures.commands, elapsed_s = _commands(store) - commands, monotonic() - lost_at

        commands = _commands(store)
        await asyncio.sleep(elapsed_s)
        figures.commands -= _commands(store) - commands

        await _end(publisher, set(late))
        counts = await crowd.until(lambda counts: sum(each.done for each in counts) == figures.sockets)
        figures.missed = 2 * figures.sockets - sum(sum(each.heard.values()) for each in counts)
        figures.repeats = sum(each.repeats for each in counts)
        figures.resets = sum(each.resets for each in counts)
        figures.put_off = sum(each.errors for each in counts)
    store.close()
    return figures


async def _until_heard(crowd: Swarms, pairs: list[tuple[str, str]], runs: set[str]) -> None:
    wanted = sum(pair[0] in runs for pair in pairs)

    def all_heard(counts: list[Counts]) -> bool:
        return sum(number for each in counts for run_id, number in each.heard.items() if run_id in runs) == wanted

    await crowd.until(all_heard)


async def _end(publisher: AsyncPublisher, runs: set[str]) -> None:
    everyone = sorted(runs)
    for first in range(0, len(everyone), 100):
        await asyncio.gather(*(publisher.publish(run_id, "success") for run_id in everyone[first : first + 100]))


def _commands(store: "redis.Redis") -> int:
    return int(store.info("stats")["total_commands_processed"])  # type: ignore[index, unused-ignore]


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
        show(asyncio.run(play(Path(folder), sockets=told.sockets, runs=told.runs)))


if __name__ == "__main__":
    main()
