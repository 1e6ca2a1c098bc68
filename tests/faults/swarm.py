"""`python -m tests.faults.swarm`: a process that holds thousands of websockets, told what to do by lines of JSON.

Its clients do as the SDK's: they resume by their cursor, after the same pauses. They cost little, so that what is
measured is the gateway. Each line on stdin is answered by one on stdout with what the clients have seen since.
"""

import asyncio
import json
import sys
from functools import partial
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from runstore import ClientConfig
from runstore.client.backoff import pause_s

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
CONNECT_S: Final = ClientConfig().connect_timeout_s
HELLO: Final = (
    "GET /v1/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: runstore.v1\r\n"
    "Authorization: Bearer {token}\r\n\r\n"
)


class Orders(msgspec.Struct, kw_only=True):
    """What a swarm is told at first: where to go, and what each of its clients subscribes to."""

    url: str
    token: str
    subscriptions: list[dict[str, Any]]
    at_once: int = 100
    """Handshakes under way at first, when nobody is in a hurry."""

    config: ClientConfig = msgspec.field(default_factory=ClientConfig)


class Told(msgspec.Struct):
    """What is read of a push."""

    run_id: str
    status: str
    error_message: str | None = None


class Message(msgspec.Struct):
    """What is read of a message."""

    type: str
    cursor: str | None = None
    run: Told | None = None


class Counts(msgspec.Struct, kw_only=True):
    """What the clients of a swarm have seen: how often, and when (by the clock that all processes share)."""

    clients: int
    subscribed: int = 0
    done: int = 0
    pushes: int = 0
    repeats: int = 0
    resets: int = 0
    errors: int = 0
    closes: dict[int, int] = msgspec.field(default_factory=dict)
    heard: dict[str, int] = msgspec.field(default_factory=dict)
    """How many clients heard each run's end."""

    subscribed_at: list[float] = msgspec.field(default_factory=list)
    took_s: list[float] = msgspec.field(default_factory=list)
    """How long each push took since the moment that its run's error message begins with."""


_MESSAGES: Final = msgspec.json.Decoder(Message)


class Frames(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, client: "Client", hello: bytes) -> None:
        self._client, self._hello = client, hello
        self._rest = b""
        self._is_open = False
        self.close_code: int | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        if not self._is_open:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            if b" 101 " not in data[:20]:
                self._transport.abort()
                return
            self._is_open = True
            data = data[end + 4 :]
            self._client.opened(self)
        at = 0
        while (frame := _frame(data, at)) is not None:
            opcode, begin, at = frame
            if opcode == TEXT:
                self._client.hear(self, data[begin:at])
            elif opcode == PING:
                self._send(PONG, data[begin:at])
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(data[begin : begin + 2], "big")
                self._send(CLOSE, data[begin : begin + 2])
                self._transport.close()
        self._rest = data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def say(self, **message: Any) -> None:
        self._send(TEXT, json.dumps(message).encode())

    def close(self) -> None:
        self._transport.abort()

    def _send(self, opcode: int, text: bytes) -> None:
        self._transport.write(masked(opcode, text))


def masked(opcode: int, text: bytes) -> bytes:
    """Make a client's frame of up to 64 KiB; its mask changes nothing."""
    size = len(text)
    head = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + head + b"\0\0\0\0" + text


def _frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return a frame's opcode, and where its payload begins and ends; None where it is not whole yet."""
    if len(data) - at < 2:
        return None
    size, begin = data[at + 1] & 127, at + 2
    for told, width in ((126, 2), (127, 8)):
        if size == told:
            if len(data) - at < 2 + width:
                return None
            size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
            break
    return (data[at] & 15, begin, begin + size) if len(data) >= begin + size else None


class Client:
    """One subscription that resumes by its cursor, until it is done."""

    def __init__(self, swarm: "Swarm", subscription: dict[str, Any]) -> None:
        self._swarm = swarm
        self._subscription = subscription
        self._cursor: str | None = None
        self._heard: set[str] = set()
        self._attempt = 0
        self.is_done = False
        self.subscribed_at: float | None = None

    async def live(self) -> None:
        loop, swarm = asyncio.get_running_loop(), self._swarm
        while not self.is_done:
            try:
                async with swarm.entrance:
                    connecting = loop.create_connection(partial(Frames, self, swarm.hello), *swarm.address)
                    _, frames = await asyncio.wait_for(connecting, CONNECT_S)
                self._attempt += 1
                await frames.lost
                code = frames.close_code or 1006
                swarm.counts.closes[code] = swarm.counts.closes.get(code, 0) + 1
            except (OSError, TimeoutError):
                self._attempt += 1
            self.subscribed_at = None
            if not self.is_done:
                await asyncio.sleep(pause_s(swarm.orders.config, self._attempt))

    def opened(self, frames: Frames) -> None:
        self._subscribe(frames)

    def hear(self, frames: Frames, text: bytes) -> None:
        message, counts = _MESSAGES.decode(text), self._swarm.counts
        self._attempt = 0
        self._cursor = message.cursor or self._cursor
        if message.type == "run" and message.run is not None:
            self._hear_run(message.run, counts)
        elif message.type == "subscribed":
            self.subscribed_at = monotonic()
        elif message.type == "reset":
            counts.resets += 1
        elif message.type == "error":
            counts.errors += 1
            asyncio.get_running_loop().call_later(self._swarm.orders.config.put_off_s, self._subscribe, frames)
        elif message.type == "done":
            self.is_done = True
            counts.done += 1
            frames.close()

    def _hear_run(self, run: Told, counts: Counts) -> None:
        counts.pushes += 1
        if run.run_id in self._heard:
            counts.repeats += 1
            return
        self._heard.add(run.run_id)
        counts.heard[run.run_id] = counts.heard.get(run.run_id, 0) + 1
        if run.error_message:
            counts.took_s.append(monotonic() - float(run.error_message.split(" ", 1)[0]))

    def _subscribe(self, frames: Frames) -> None:
        message = {"type": "subscribe", "id": "a", **self._subscription}
        if self._cursor is not None:
            message["cursor"] = self._cursor
        frames.say(**message)


class Swarm:
    """All clients of a process."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        where = urlsplit(orders.url)
        self.address = where.hostname, where.port
        self.hello = HELLO.format(host=where.netloc, token=orders.token).encode()
        self.entrance = asyncio.Semaphore(orders.at_once)
        self.counts = Counts(clients=len(orders.subscriptions))
        self._clients = [Client(self, subscription) for subscription in orders.subscriptions]

    async def live(self, lines: asyncio.StreamReader) -> None:
        lives = [asyncio.create_task(client.live()) for client in self._clients]
        while line := await lines.readline():
            print(self._report(float(line)), flush=True)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def _report(self, since: float) -> str:
        counts = self.counts
        moments = [client.subscribed_at for client in self._clients if client.subscribed_at is not None]
        counts.subscribed_at = [moment for moment in moments if moment >= since]
        counts.subscribed = len(counts.subscribed_at)
        if counts.subscribed == counts.clients:
            self.entrance = asyncio.Semaphore(counts.clients)  # from now on they come as they like
        told = msgspec.json.encode(counts).decode()
        counts.took_s = []
        return told


async def serve() -> None:
    """Serve the orders that come first on stdin, and end with it."""
    lines = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await Swarm(msgspec.json.decode(await lines.readline(), type=Orders)).live(lines)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as one:
        one.run(serve())
