"""A watch as the caller holds it: an asynchronous iterator of runs that outlives connections."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from runstore.client.channel import Channel, Item
from runstore.client.link import Link
from runstore.client.run import Run


class Watch:
    """Runs as they come. It ends by itself when every run that it was given has ended; a project's never does.

    As a context manager it is entered once the gateway listens, so that nothing that happens within is missed.
    """

    def __init__(self, link: Link, channel: Channel, cursor: str | None) -> None:
        self._link = link
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._taken: deque[Item] = deque()
        self._cursor = cursor

    @property
    def cursor(self) -> str | None:
        """The place behind the last run that was handed out: `watch(…, cursor=…)` goes on from there.

        None before there is one, and for a watch of more than a thousand runs.
        """
        return self._cursor

    async def ready(self) -> None:
        """Wait until the gateway listens for this watch.

        Raises: what ended the watch, as in iterating.
        """
        await self._channel.subscribed.wait()
        if self._channel.error is not None:
            raise self._channel.error
        if self._cursor is None:
            self._cursor = self._channel.cursor

    async def take(self) -> list[Item]:
        """Wait for runs, and return all that are there with their cursors; an empty list when the watch is over.

        Raises: RunNotFound, AmbiguousRunId, InvalidRunId, Unauthorized, Forbidden; GatewayUnreachable where touch was
        lost for too long.
        """
        items = list(self._taken) or await self._more()
        self._taken.clear()
        if items:
            self._note(items[-1])
        return items

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Run:
        if not self._taken:
            self._taken.extend(await self._more())
        if not self._taken:
            raise StopAsyncIteration
        item = self._taken.popleft()
        self._note(item)
        return item.run

    async def aclose(self) -> None:
        """Listen no longer; may be called twice."""
        self._link.close_channel(self._channel)

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left by `break` drops its watch without a word.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._link.close_channel, self._channel)

    async def _more(self) -> list[Item]:
        if self._channel.resume():
            self._link.wake()
        return await self._channel.take()

    def _note(self, item: Item) -> None:
        self._cursor = item.cursor or self._cursor
