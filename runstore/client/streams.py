"""Runs heard by server-sent events, for where websockets are refused; and whether such streams get through at all.

A proxy may hold back what is not yet whole. The gateway says a first word at once and another every quarter of a
minute, so a stream that is silent for longer is held back or lost; a few of these, and streams count as refused.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from runstore.client.errors import GatewayUnreachable, UnexpectedAnswer
from runstore.client.http import Http
from runstore.client.run import Run
from runstore.client.sse import EVENT_STREAM, SentEvent, Splitter
from runstore.core.errors import NotAcceptable
from runstore.core.event import Progress
from runstore.core.status import TERMINAL, Status

_LOG = logging.getLogger("runstore.client")
_SILENCE_S: Final = 40.0
_MUTE_LIMIT: Final = 3
"""So many streams in a row that were lost before a word came, and streams count as refused."""
_TOGETHER_S: Final = 1.0
_AGAIN: Final = 10
"""Streams that were refused are tried again after so many times the pause between two tries of the websocket."""


class Transition(msgspec.Struct, frozen=True):
    """What a `transition` event says, as far as it is needed."""

    status: Status
    ignored: bool = False
    at: str | None = None

    @property
    def is_end(self) -> bool:
        """Whether the run has ended by it."""
        return self.status in TERMINAL and not self.ignored

    def is_beginning_of(self, run: Run) -> bool:
        """Whether a run as it was read may have been told by it: it is recorded once, and begins to run once.

        An answer's place is from before the answer was read, so what follows the place may tell the answer again.
        """
        return self.status is Status.PENDING or (self.status is Status.RUNNING and self.at == run.started_at)


class Step(msgspec.Struct, frozen=True):
    """What a `progress` event says."""

    run_id: str
    progress: Progress


decode_transition: Final = msgspec.json.Decoder(Transition).decode
decode_step: Final = msgspec.json.Decoder(Step).decode


class StreamRefused(Exception):
    """Something on the way does not let streams through."""


class Streams:
    """Opens streams, and keeps in mind whether they get through."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._mute = 0
        self._mute_at = float("-inf")
        self._refused_until = float("-inf")

    @property
    def get_through(self) -> bool:
        """Whether a stream is worth a try. Needs: a running loop."""
        return asyncio.get_running_loop().time() >= self._refused_until

    async def hear(self, run_id: str, last_id: str | None) -> AsyncGenerator[SentEvent, None]:
        """Hear the events of a run behind an event id, until the gateway ends the stream.

        Raises: StreamRefused where streams do not get through; what the problem document tells; GatewayUnreachable.
        """
        try:
            async with contextlib.aclosing(self._read(f"/v1/runs/{run_id}/events", last_id)) as events:
                async for event in events:
                    yield event
        except (UnexpectedAnswer, NotAcceptable) as refused:
            raise self._refuse(refused.detail) from None

    async def _read(self, path: str, last_id: str | None) -> AsyncGenerator[SentEvent, None]:
        config, splitter = self._http.config, Splitter()
        headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": last_id} if last_id is not None else {})}
        limit = asyncio.timeout(config.stream_patience_s)
        loop = asyncio.get_running_loop()
        heard = False
        try:
            async with limit, self._http.stream(path, headers=headers) as response:
                if response.content_type != EVENT_STREAM:
                    raise UnexpectedAnswer(f"the answer is {response.content_type}, not {EVENT_STREAM}")
                async for chunk in response.content.iter_any():
                    heard, self._mute = True, 0
                    # Whoever takes the events may take a while for it: that is no silence of the gateway's.
                    limit.reschedule(None)
                    for event in splitter.take(chunk):
                        yield event
                    limit.reschedule(loop.time() + _SILENCE_S)
        except TimeoutError:
            if not limit.expired():
                raise
            if not heard:
                raise self._refuse(f"no word came within {config.stream_patience_s:g} s") from None
            self._note_mute()
            raise GatewayUnreachable("a stream fell silent") from None
        if not heard:
            self._note_mute()

    def _note_mute(self) -> None:
        now = asyncio.get_running_loop().time()
        # All streams of a gateway that is frozen fall silent together, which says nothing about a proxy.
        self._mute += now - self._mute_at > _TOGETHER_S
        self._mute_at = now
        if self._mute >= _MUTE_LIMIT:
            raise self._refuse("streams are cut before a word is heard")

    def _refuse(self, reason: str) -> StreamRefused:
        now = asyncio.get_running_loop().time()
        if self._refused_until < now:
            _LOG.warning("stream_refused", extra={"reason": reason, "goes_on_by": "long poll"})
        self._refused_until, self._mute = now + _AGAIN * self._http.config.websocket_retry_s, 0
        return StreamRefused(reason)
