"""A TCP proxy that can be told to be bad: slow, cut, half-open, forgetful of replies, or trickling."""

import asyncio
import random
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from tests.chaos.plan import Kind

_PIECE: Final = 65536
_TRICKLED: Final = 300
"""Bytes of a piece that go out one at a time; the rest follows whole."""


class Proxy:
    """Pass on what comes to one port to one of several; `trouble` is what goes wrong at present."""

    def __init__(self, upstreams: Sequence[int]) -> None:
        self.port = 0
        self.trouble: Kind | None = None
        self._amount = 0.0
        self._upstreams = list(upstreams)
        self._healed = asyncio.Event()
        self._healed.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def hurt(self, trouble: Kind, amount: float) -> None:
        """Begin to be bad."""
        self.trouble, self._amount = trouble, amount
        self._healed.clear()
        if trouble is Kind.CUT:
            self._abort_all()

    def heal(self) -> None:
        """Be good again; connections that lost bytes meanwhile are cut."""
        trouble, self.trouble = self.trouble, None
        self._healed.set()
        if trouble in {Kind.HALF_OPEN, Kind.LOST_REPLY}:
            self._abort_all()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.trouble = Kind.CUT
        self._healed.set()
        self._abort_all()
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=5)

    def _abort_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._open.add(writer)
        onward = None
        try:
            onward = await self._connect() if self.trouble is not Kind.CUT else None
            if onward is None:
                return
            there_reader, there = onward
            self._open.add(there)
            pumps = [
                asyncio.create_task(self._pump(reader, there, is_reply=False)),
                asyncio.create_task(self._pump(there_reader, writer, is_reply=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        finally:
            self._handlers.discard(task)
            for side in (writer, onward[1] if onward is not None else None):
                if side is not None:
                    self._open.discard(side)
                    side.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in random.sample(self._upstreams, len(self._upstreams)):
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                match self.trouble:
                    case Kind.DELAY:
                        await asyncio.sleep(0.01 + self._amount / 4)
                    case Kind.HALF_OPEN:
                        await self._healed.wait()
                        return
                    case Kind.LOST_REPLY if is_reply:
                        # the deed was done, and nobody hears of it
                        return
                    case Kind.TRICKLE:
                        for place in range(min(_TRICKLED, len(data))):
                            writer.write(data[place : place + 1])
                            await asyncio.sleep(0)
                        data = data[_TRICKLED:]
                    case _:
                        pass
                writer.write(data)
                await writer.drain()
