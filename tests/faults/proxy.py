"""A TCP proxy before Redis whose connections can be cut, and can go dumb: open, but with nothing coming through."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from tests.relay import PIECE_BYTES, Ends, Relay


class Proxy(Relay):
    """Pass on what comes to `url` to the Redis at another one."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self._there = urlsplit(redis_url)
        self._lets_in = True
        self._passes = asyncio.Event()
        self._passes.set()

    @property
    def url(self) -> str:
        return self._there._replace(netloc=f":{self._there.password}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Cut every connection, and let none in until `mend`."""
        self._lets_in = False
        self.abort_all()

    def mend(self) -> None:
        """Let connections in again; those that went dumb stay so."""
        self._lets_in = True
        self._passes = asyncio.Event()
        self._passes.set()

    def go_dumb(self) -> None:
        """Let nothing through any more on any connection, now open or to come, and close none of them."""
        self._passes.clear()

    async def connect(self) -> Ends | None:
        if not self._lets_in:
            return None
        return await asyncio.open_connection(self._there.hostname, self._there.port)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        passes = self._passes
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await passes.wait()
                writer.write(data)
                await writer.drain()
            await passes.wait()
