"""A TCP proxy that can be told to be bad: slow, cut, half-open, forgetful of replies, or trickling."""

import asyncio
import random
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from tests.chaos.plan import Kind
from tests.relay import PIECE_BYTES, Ends, Relay

_TRICKLED: Final = 300
"""Bytes of a piece that go out one at a time; the rest follows whole."""


class Proxy(Relay):
    """Pass on what comes to one port to one of several; `trouble` is what goes wrong at present."""

    def __init__(self, upstreams: Sequence[int]) -> None:
        super().__init__()
        self.trouble: Kind | None = None
        self._amount = 0.0
        self._upstreams = list(upstreams)
        self._healed = asyncio.Event()
        self._healed.set()

    def hurt(self, trouble: Kind, amount: float) -> None:
        """Begin to be bad."""
        self.trouble, self._amount = trouble, amount
        self._healed.clear()
        if trouble is Kind.CUT:
            self.abort_all()

    def heal(self) -> None:
        """Be good again; connections that lost bytes meanwhile are cut."""
        trouble, self.trouble = self.trouble, None
        self._healed.set()
        if trouble in {Kind.HALF_OPEN, Kind.LOST_REPLY}:
            self.abort_all()

    async def connect(self) -> Ends | None:
        if self.trouble is Kind.CUT:
            return None
        for port in random.sample(self._upstreams, len(self._upstreams)):
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
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
