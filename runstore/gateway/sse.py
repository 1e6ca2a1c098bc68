"""Server-sent events: framing and bounded streams."""

import asyncio
from time import monotonic
from typing import Final

from aiohttp import web

from runstore.core.errors import InvalidRequest
from runstore.gateway.context import CALLER, SERVICES
from runstore.gateway.cut import cut
from runstore.gateway.socket_streams import STREAMS

EVENT_STREAM: Final = "text/event-stream"
NEVER_AGAIN: Final = b"retry: 86400000\n\n"
"""Sent where nothing more will come, for a browser that would ask again and again."""

LISTENING: Final = b": listening\n\n"
"""Sent where there is nothing to tell yet, so that a client knows at once that no proxy holds the stream back."""


def frame(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """Write one event. Needs: data without line breaks, as JSON has none."""
    head = b"id: %b\n" % event_id.encode() if event_id is not None else b""
    return b"%bevent: %b\ndata: %b\n\n" % (head, name.encode(), data)


def last_event_id(request: web.Request) -> str | None:
    """Return the `Last-Event-ID`, where the client has one.

    Raises: InvalidRequest where it comes more than once.
    """
    told = [one for one in request.headers.getall("Last-Event-ID", ()) if one]
    if len(told) > 1:
        raise InvalidRequest("give one Last-Event-ID, not several")
    return told[0] if told else None


class EventStream:
    """One SSE answer: opened once, written at the client's pace, ended from outside where it must be.

    A handler awaits `news` and writes; whoever has news sets it.
    """

    def __init__(self, request: web.Request) -> None:
        self.news = asyncio.Event()
        self.is_ended = False
        self.is_open = False
        self._written_at_s = monotonic()
        self.request = request
        self._streams = request.app[STREAMS]
        self.counts = request.app[SERVICES].counts
        self.response = web.StreamResponse(
            headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    @property
    def limit_bytes(self) -> int:
        """How much may wait for this stream."""
        return self._streams.config.stream_bytes

    async def open(self, headers: dict[str, str]) -> None:
        """Send the head, and be watched over from then on."""
        self.response.headers.update(headers)
        await self.response.prepare(self.request)
        self.is_open = True
        self.counts.streams += 1
        self._streams.add(self, self.request[CALLER])

    async def write(self, packed: bytes) -> None:
        """Send to the client, as fast as it takes it; nothing once the stream was ended."""
        if not self.is_ended and packed:
            await self.response.write(packed)
            self._written_at_s = monotonic()

    async def pause(self, limit_s: float | None = None) -> None:
        """Wait for news, for at most `limit_s`, and keep the connection alive meanwhile."""
        keepalive_s = self._streams.config.stream_keepalive_s
        try:
            async with asyncio.timeout(keepalive_s if limit_s is None else min(limit_s, keepalive_s)):
                await self.news.wait()
        except TimeoutError:
            if monotonic() - self._written_at_s >= keepalive_s:
                await self.write(b": still here\n\n")
        self.news.clear()

    def close(self) -> None:
        """Be watched over no longer."""
        if self.is_open:
            self.is_open = False
            self.counts.streams -= 1
        self._streams.remove(self)

    def revoke(self) -> None:
        """End with nothing more sent."""
        self.is_ended = True
        self.cut()

    def stop(self) -> None:
        """End as soon as what is being written is written."""
        self.is_ended = True
        self.news.set()

    def cut(self) -> None:
        """Cut the connection: the client lost touch, and comes back with its last event id."""
        self.is_ended = True
        self.news.set()
        cut(self.request.transport)

    @property
    def poll_s(self) -> float:
        """How often a follower of logs reads."""
        return self._streams.config.logs_poll_s
