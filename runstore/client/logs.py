"""Logs as they come: server-sent events, resumed where a connection is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final, NamedTuple

import aiohttp
import msgspec

from runstore.client.backoff import pause_s
from runstore.client.http import Http
from runstore.core.errors import RunstoreError

_STREAMS: Final = frozenset({"stdout", "stderr"})
_QUIET_S: Final = 1.0
"""So long without a piece, and all that a running run has written so far has been told."""


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


class _Piece(msgspec.Struct, frozen=True):
    text: str


_PIECE: Final = msgspec.json.Decoder(_Piece)


async def read_logs(http: Http, path: str, *, follow: bool) -> AsyncIterator[tuple[str, str]]:
    """Read logs as pairs of stream and text, resuming where the connection is lost; else what there is so far.

    Raises: what a request raises; GatewayUnreachable where touch was lost for too long.
    """
    clock = asyncio.get_running_loop().time
    patience_s = http.config.give_up_s if follow else http.config.retry_for_s
    last_id, attempt, touched_at = "", 0, clock()
    while True:
        try:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
            async with http.stream(path, headers=headers) as response:
                async for event in _events(response, None if follow else _QUIET_S):
                    last_id, attempt, touched_at = event.id or last_id, 0, clock()
                    if event.kind == "done":
                        return
                    if event.kind in _STREAMS and (text := _PIECE.decode(event.data).text):
                        yield event.kind, text
            if not follow:
                return
        except RunstoreError as error:
            if not error.retryable or clock() - touched_at > patience_s:
                raise
        await asyncio.sleep(pause_s(http.config, attempt))
        attempt += 1


async def _events(response: aiohttp.ClientResponse, quiet_s: float | None) -> AsyncIterator[SentEvent]:
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
