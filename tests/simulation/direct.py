"""The simulated server without a simulation: called at once, in real time, for the contract suite."""

import asyncio
from collections.abc import Sequence
from time import time
from typing import Any

from tests.simulation.network import Command, block_ms_of, execute
from tests.simulation.server import Server


class Direct:
    """The way to a server of this process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._added = asyncio.Event()
        server.on_added = lambda _: self._added.set()

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, and wait for news where that is asked."""
        self._server.now_ms = int(time() * 1000)
        replies = [execute(self._server, args, options) for args, options in commands]
        block_ms = block_ms_of(commands[0][0])
        if block_ms and not replies[0]:
            try:
                async with asyncio.timeout(block_ms / 1000):
                    while not replies[0]:
                        self._added.clear()
                        await self._added.wait()
                        replies = [execute(self._server, *commands[0])]
            except TimeoutError:
                pass
        return replies
