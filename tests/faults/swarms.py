"""Processes of `tests.faults.swarm`, started and asked: thousands of clients beside the one that looks on."""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from tests.cli.processes import environment
from tests.faults.lives import TOKEN
from tests.faults.swarm import Counts, Orders

_LINE_BYTES: Final = 1 << 28
_LOOK_EVERY_S: Final = 0.25


class Swarms:
    """The processes. Made by `swarms`."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def ask(self, since: float = 0.0) -> list[Counts]:
        """Ask what the clients have seen; those count as subscribed that were so since a moment, and still are."""
        return await asyncio.gather(*(self._ask(process, since) for process in self._processes))

    async def until(
        self, claim: Callable[[list[Counts]], bool], *, since: float = 0.0, within_s: float = 240.0
    ) -> list[Counts]:
        """Ask again and again until a claim is true of the answers.

        Raises: TimeoutError, with what they were last.
        """
        counts: list[Counts] = []
        try:
            async with asyncio.timeout(within_s):
                while not claim(counts := await self.ask(since)):  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            seen = [(each.clients, each.subscribed, each.done, each.pushes, each.closes) for each in counts]
            raise TimeoutError(f"clients, subscribed, done, pushes, closes of each process: {seen}") from None
        return counts

    async def _ask(self, process: asyncio.subprocess.Process, since: float) -> Counts:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"%r\n" % since)
        return msgspec.json.decode(await process.stdout.readline(), type=Counts)


def all_subscribed(counts: list[Counts]) -> bool:
    """Whether every client is subscribed."""
    return all(each.subscribed == each.clients for each in counts)


@asynccontextmanager
async def swarms(url: str, subscriptions: Sequence[dict[str, Any]], *, processes: int = 2) -> AsyncIterator[Swarms]:
    """Start the clients, shared out among processes, and end them."""
    made: list[asyncio.subprocess.Process] = []
    try:
        for number in range(processes):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.swarm"),
                env=environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
            )
            made.append(process)
            orders = Orders(url=url, token=TOKEN, subscriptions=list(subscriptions[number::processes]))
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            await process.stdin.drain()
        yield Swarms(made)
    finally:
        for process in made:
            if process.returncode is None:
                process.kill()
            await process.wait()


def let_open_many_files(number: int) -> None:
    """Let this process and its children have so many open files, as far as the machine allows.

    Raises: OSError where it does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        if hard < number:
            raise OSError(
                f"this machine allows a process {hard} open files, and {number} are needed: raise `ulimit -n`"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
