"""One websocket to a gateway, frame by frame: what is sent may be anything, what comes back must be RFC 6455."""

import asyncio
import json
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from tests.attack.http_line import Answer, read_answer

WITHIN_S = 25.0
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class NotWebsocket(Exception):
    """What came back is no frame that a server may send."""


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """Write one frame; `length` is told in place of the payload's own."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload) if length is None else length
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    pattern = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(pattern)).to_bytes(len(payload))


class WsLine:
    """A websocket that is open, once `open` says so."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._address = address
        self._from = f"127.1.{1 + number // 250 % 250}.{1 + number % 250}"

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            *self._address, local_addr=(self._from, 0), limit=1 << 24
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def open(self, headers: Sequence[bytes]) -> Answer:
        """Ask for the websocket, and return the answer. Raises: TimeoutError, ConnectionError, NotHttp."""
        lines = (b"GET /v1/ws HTTP/1.1", b"Host: 127.0.0.1", *headers, b"", b"")
        self._writer.write(b"\r\n".join(lines))
        async with asyncio.timeout(WITHIN_S):
            try:
                return await read_answer(self._reader, b"GET")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                raise ConnectionError(f"closed without an answer: {error!r}") from None

    def send(self, raw: bytes) -> None:
        """Send bytes, whatever they are; to a closed connection as well."""
        self._writer.write(raw)

    def end(self) -> None:
        """Send an end of file."""
        with suppress(OSError, RuntimeError):
            self._writer.write_eof()

    async def receive(self) -> tuple[int, bytes] | None:
        """Receive a frame; None where the connection ended without a close. Raises: NotWebsocket, TimeoutError."""
        try:
            async with asyncio.timeout(WITHIN_S):
                first, second = await self._reader.readexactly(2)
                size = second & 0x7F
                if size >= 126:
                    size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
                payload = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        opcode = first & 0x0F
        if second & 0x80 or first & 0x70 or not first & 0x80 or opcode not in {TEXT, CLOSE, PING, PONG}:
            raise NotWebsocket(f"a frame that begins with {first:02x} {second:02x}")
        if opcode >= CLOSE and (size > 125 or (opcode == CLOSE and size == 1)):
            raise NotWebsocket(f"a control frame of {size} bytes")
        return opcode, payload

    async def message(self) -> dict[str, Any] | int:
        """Receive the next message, else the code that the connection was closed with (1006: with none)."""
        while (received := await self.receive()) is not None:
            opcode, payload = received
            if opcode == CLOSE:
                payload[2:].decode("utf-8")
                return int.from_bytes(payload[:2]) if payload else 1005
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == TEXT:
                told = json.loads(payload.decode("utf-8"))
                if not isinstance(told, dict):
                    raise NotWebsocket("a message that is no object")
                return told
        return 1006
