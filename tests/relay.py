"""A TCP relay of the tests: it accepts on a port of its own, and passes each connection on."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Self

PIECE_BYTES: Final = 65536
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Say in a subclass where a connection leads (`connect`), and what goes through on it (`carry`)."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.abort_all()
        for pump in self._pumps:
            pump.cancel()
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=5)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def connections(self) -> int:
        return len(self._open) // 2

    def abort_all(self) -> None:
        """Cut every connection that is open."""
        for writer in list(self._open):
            writer.transport.abort()

    async def connect(self) -> Ends | None:
        """Connect to where a connection leads; None turns it away. Raises: OSError, which does too."""
        raise NotImplementedError

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        """Carry what comes on one way of a connection, which ends with this."""
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                writer.write(data)
                await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        sides = [writer]
        self._open.add(writer)
        try:
            with suppress(OSError):
                onward = await self.connect()
                if onward is None or self._server is None:
                    return
                there_reader, there = onward
                sides.append(there)
                self._open.add(there)
                await self._carry_both(
                    self.carry(reader, there, is_reply=False), self.carry(there_reader, writer, is_reply=True)
                )
        finally:
            self._handlers.discard(task)
            for side in sides:
                self._open.discard(side)
                side.transport.abort()

    async def _carry_both(self, *ways: Coroutine[Any, Any, None]) -> None:
        pumps = {asyncio.ensure_future(way) for way in ways}
        self._pumps |= pumps
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            self._pumps -= pumps
