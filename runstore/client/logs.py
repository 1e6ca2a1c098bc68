"""Logs as they come: server-sent events, resumed where a connection is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import aiohttp
import msgspec

from runstore.client.backoff import pause_s
from runstore.client.errors import GatewayUnreachable
from runstore.client.http import Http

_ACCEPT: Final = {"Accept": "text/event-stream"}


class SentEvent(NamedTuple):
    """One server-sent event: its kind, its data and the id to resume behind it."""

    kind: str
    data: str
    id: str


class Feeder:
    """Split a stream of server-sent events, line by line. Pure."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []
        self._id = ""

    def take(self, line: str) -> SentEvent | None:
        """Take one line without its end, and return the event that it completes."""
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


async def read_logs(http: Http, path: str, *, follow: bool) -> AsyncIterator[tuple[str, str]]:
    """Read logs as pairs of stream and text, resuming where the connection is lost.

    Raises: what a request raises; GatewayUnreachable where touch was lost for too long.
    """
    raise NotImplementedError
    yield ("", "")
