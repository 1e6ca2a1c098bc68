"""A client that costs little: one request after another on each of several connections, and websockets that count."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

_HELLO: Final = "GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n"


class _Asker(asyncio.Protocol):
    """Sends the next request when the answer to the last one is whole."""

    def __init__(self, requests: Iterator[bytes], done: "asyncio.Future[None]", failures: list[bytes]) -> None:
        self._requests, self._done, self._failures = requests, done, failures
        self._rest = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        rest = self._rest + data if self._rest else data
        end = rest.find(b"\r\n\r\n")
        if end >= 0:
            at = rest.find(b"ength: ", 0, end)
            size = int(rest[at + 7 : rest.find(b"\r", at)]) if at >= 0 else 0
            if len(rest) >= end + 4 + size:
                if rest[9:12] != b"200":
                    self._failures.append(rest[:200])
                self._rest = b""
                self._next()
                return
        self._rest = rest

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("the server hung up"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
        elif not self._done.done():
            self._done.set_result(None)


async def ask(url: str, paths: list[str], *, connections: int = 16, token: str | None = None) -> float:
    """Ask for every path, and return how many seconds it took.

    Raises: ConnectionError where an answer was no 200.
    """
    headers = f"Authorization: Bearer {token}\r\n" if token else ""
    requests = iter([_HELLO.format(path=path, headers=headers).encode() for path in paths])
    (host, port), loop, failures = _address(url), asyncio.get_running_loop(), list[bytes]()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    began = time.perf_counter()
    made = [await loop.create_connection(partial(_Asker, requests, end, failures), host, port) for end in ends]
    await asyncio.gather(*ends)
    took_s = time.perf_counter() - began
    for transport, _ in made:
        transport.close()
    if failures:
        raise ConnectionError(f"{len(failures)} answers were no 200: {failures[0]!r}")
    return took_s


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


class Counter:
    """Counts what sockets received, and says when it was enough."""

    def __init__(self) -> None:
        self.frames = 0
        self._enough = 0
        self._reached: asyncio.Event = asyncio.Event()

    def add(self, frames: int) -> None:
        """Count frames."""
        self.frames += frames
        if self.frames >= self._enough:
            self._reached.set()

    async def reach(self, frames: int, within_s: float = 120.0) -> None:
        """Wait until so many frames have come."""
        self._enough = frames
        self._reached.clear()
        if self.frames < frames:
            async with asyncio.timeout(within_s):
                await self._reached.wait()


class Listener(asyncio.Protocol):
    """A websocket that counts the frames it is sent and keeps none."""

    def __init__(self, counter: Counter, hello: bytes) -> None:
        self._counter, self._hello = counter, hello
        self._rest = b""
        self.is_open = asyncio.get_running_loop().create_future()
        self.is_lost = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        if not self.is_open.done():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            if b" 101 " not in data[:20]:
                self.is_open.set_exception(ConnectionError(repr(data[:200])))
                return
            self.is_open.set_result(None)
            data = data[end + 4 :]
        at, frames = 0, 0
        while len(data) - at >= 2:
            size, head = data[at + 1] & 127, 2
            if size == 126:
                if len(data) - at < 4:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif size == 127:
                if len(data) - at < 10:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if len(data) - at < head + size:
                break
            frames += data[at] & 15 == 1
            at += head + size
        self._rest = data[at:]
        if frames:
            self._counter.add(frames)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_lost.done():
            self.is_lost.set_result(None)

    def send(self, text: bytes) -> None:
        """Send a text frame of up to 64 KiB."""
        size = len(text)
        head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE]) + size.to_bytes(2, "big")
        self.transport.write(head + b"\0\0\0\0" + text)


async def listen(url: str, path: str, counter: Counter, *, token: str | None = None) -> Listener:
    """Open a websocket."""
    headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    headers += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    if token is not None:
        headers += f"Sec-WebSocket-Protocol: runstore.v1\r\nAuthorization: Bearer {token}\r\n"
    hello = _HELLO.format(path=path, headers=headers).encode()
    loop, (host, port) = asyncio.get_running_loop(), _address(url)
    _, listener = await loop.create_connection(partial(Listener, counter, hello), host, port)
    await listener.is_open
    return listener
