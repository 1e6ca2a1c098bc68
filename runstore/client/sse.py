"""Server-sent events as a client reads them: bytes split into events, and a stream that falls silent is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final, NamedTuple

import aiohttp

EVENT_STREAM: Final = "text/event-stream"


class SentEvent(NamedTuple):
    """One server-sent event: its kind, its data and the id to resume behind it."""

    kind: str
    data: str
    id: str


class Splitter:
    """Split the bytes of a stream into server-sent events. Pure."""

    def __init__(self) -> None:
        self._rest = b""
        self._kind = ""
        self._data: list[str] = []
        self._id = ""

    def take(self, chunk: bytes) -> Iterator[SentEvent]:
        """Take some bytes, and return the events that they complete."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._take_line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _take_line(self, line: str) -> SentEvent | None:
        if not line:
            event = SentEvent(self._kind or "message", "\n".join(self._data), self._id) if self._data else None
            self._kind, self._data = "", []
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
        return None


async def read_events(response: aiohttp.ClientResponse, quiet_s: float | None) -> AsyncIterator[SentEvent]:
    """Read the events of an answer, until it ends or nothing came for `quiet_s`."""
    splitter, chunks = Splitter(), response.content.iter_any()
    while True:
        try:
            async with asyncio.timeout(quiet_s) as limit:
                chunk = await anext(chunks, None)
        except TimeoutError:
            if limit.expired():
                return
            raise
        if chunk is None:
            return
        for event in splitter.take(chunk):
            yield event
