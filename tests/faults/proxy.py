"""A TCP proxy before Redis whose connections can be cut, and can go dumb: open, but with nothing coming through."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Pass on what comes to `url` to the Redis at another one."""

    def __init__(self, redis_url: str) -> None:
        self._there = urlsplit(redis_url)
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lets_in = True
        self._passes = asyncio.Event()
        self._passes.set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._there._replace(netloc=f":{self._there.password}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def connections(self) -> int:
        return len(self._open) // 2

    def cut(self) -> None:
        """Cut every connection, and let none in until `mend`."""
        self._lets_in = False
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections in again; those that went dumb stay so."""
        self._lets_in = True
        self._passes = asyncio.Event()
        self._passes.set()

    def go_dumb(self) -> None:
        """Let nothing through any more on any connection, now open or to come, and close none of them."""
        self._passes.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            if not self._lets_in:
                return
            far, there = await asyncio.open_connection(self._there.hostname, self._there.port)
            self._open |= {writer, there}
            passes = self._passes
            pumps = [asyncio.ensure_future(_pump(*way, passes)) for way in ((reader, there), (far, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        finally:
            for side in (writer, there):
                if side is not None:
                    side.transport.abort()
                    self._open.discard(side)
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await passes.wait()
            writer.write(data)
            await writer.drain()
        await passes.wait()
