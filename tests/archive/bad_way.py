"""A way to an object store on which things go wrong: errors, delays, cut connections, uploads that arrive in half."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

FAULTS = ("error", "slow", "cut before", "cut after", "torn")


class BadWay:
    """A proxy before one port. `share` of all requests meet one of `faults`."""

    def __init__(self, port: int, seed: int, share: float) -> None:
        self.met: Counter[str] = Counter()
        self.share = share
        self.faults: tuple[str, ...] = FAULTS
        self.port = 0
        self._behind = port
        self._chance = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass requests on, one after the other."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                fault = self._chance.choice(self.faults) if self._chance.random() < self.share else ""
                if fault == "torn" and not head.startswith(b"PUT"):
                    fault = "error"
                self.met[fault] += 1
                if fault == "cut before":
                    break
                if fault == "error":
                    writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                    continue
                if fault == "slow":
                    await asyncio.sleep(self._chance.random() * 0.2)
                if fault == "torn":
                    head = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % (len(body) // 2))
                    body = body[: len(body) // 2]
                answer = await self._ask(head, body)
                if fault == "cut after":
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._behind)
        writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
        answer = await reader.read()
        writer.close()
        return answer.replace(b"Connection: close\r\n", b"")


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@asynccontextmanager
async def bad_way(port: int, *, seed: int, share: float) -> AsyncIterator[BadWay]:
    """Hold a proxy before a port."""
    way = BadWay(port, seed, share)
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(way.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        for task in tasks:
            task.cancel()
