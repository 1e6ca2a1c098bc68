"""The one websocket of a client: every wait and watch goes over it, and outlives it.

Lost touch is never an end: the link connects again, with growing pauses drawn at random, and asks again for what had
not ended. Where websockets are refused it goes on by streams of events, else by long poll, from the same places, and
tries the websocket again from time to time.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Sequence
from typing import Final

import aiohttp

from runstore.client.backoff import pause_s
from runstore.client.catchup import catch_up
from runstore.client.channel import Asked, Channel, OnProgress
from runstore.client.desk import Desk
from runstore.client.errors import GatewayUnreachable, UnexpectedAnswer
from runstore.client.http import Http
from runstore.client.poll import Poller
from runstore.client.run import Run
from runstore.core.errors import RateLimited, RunstoreError, Unauthorized
from runstore.wire.messages import SUBPROTOCOL

_LOG = logging.getLogger("runstore.client")
_CLOSED_UNAUTHORIZED: Final = 4401
_AWAY: Final = frozenset({408, 425, 500, 502, 503, 504})
"""Answers to a handshake that say that the gateway is away; others, but for 429, say that websockets are refused."""
_MUTE_LIMIT: Final = 3
"""So many connections in a row that opened and were lost before a word came, and websockets count as refused."""
_YIELD_EVERY: Final = 64


class _Refused(Exception):
    """Something on the way does not let websockets through."""


class Link:
    """Keeps touch with the gateway for as long as anything is awaited or watched."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._config = http.config
        self._desk = Desk()
        self._poller = Poller(http, self._desk)
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._mute = 0
        self._met = False

    async def wait(self, run_id: str) -> Run:
        """Wait until a run, named by its full id, has ended.

        Raises: Unauthorized, Forbidden; GatewayUnreachable where touch was lost for too long.
        """
        self._check_open()
        future = self._desk.add_wait(run_id)
        self.wake()
        try:
            return await future
        finally:
            self._desk.drop_wait(run_id, future)
            self.wake()

    def open_channel(self, asked: Asked, cursor: str | None, on_progress: OnProgress | None) -> Channel:
        """Begin to listen for a watch.

        Raises: RateLimited where the client has as many watches as one connection carries.
        """
        self._check_open()
        channel = self._desk.add_channel(asked, cursor, self._config, on_progress)
        self.wake()
        return channel

    def close_channel(self, channel: Channel) -> None:
        """Listen for a watch no longer; may be called twice."""
        if self._desk.drop_channel(channel):
            self.wake()

    def wake(self) -> None:
        """Let what has changed at the desk be told to the gateway."""
        if self._closed or not (self._desk.busy or self._task):
            return
        self._dirty.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="runstore-link")

    async def close(self) -> None:
        """Let go of the gateway; what still waits gets GatewayUnreachable. May be called twice."""
        self._closed = True
        self._desk.fail(GatewayUnreachable("the client was closed"))
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def _patience_s(self) -> float:
        """A gateway that was never met is looked for no longer than one request may take."""
        most = self._config.give_up_s
        return most if self._met else min(most, self._config.timeout_s)

    def _check_open(self) -> None:
        if self._closed:
            raise GatewayUnreachable("the client was closed")

    async def _run(self) -> None:
        try:
            await self._keep_touch()
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of a bug, not wait for ever
            _LOG.exception("link_failed")
            self._desk.fail(UnexpectedAnswer(f"the client failed: {type(error).__name__}: {error}"))

    async def _keep_touch(self) -> None:
        clock = asyncio.get_running_loop().time
        lost_at, attempt = clock(), 0
        while self._desk.busy:
            try:
                async with contextlib.aclosing(_Socket(await self._connect())) as socket:
                    lost_at, attempt = clock(), 0 if await self._converse(socket) else attempt + 1
                if self._mute >= _MUTE_LIMIT:
                    raise _Refused("connections are cut before a word is heard")
            except _Refused as refused:
                _LOG.warning("websocket_refused", extra={"reason": str(refused), "goes_on_by": "event streams"})
                self._met = True
                await self._poller.run(self._config.websocket_retry_s, self._dirty)
                lost_at, attempt, self._mute = clock(), 0, 0
                continue
            except RunstoreError as error:
                if not error.retryable or clock() - lost_at > self._patience_s:
                    self._desk.fail(error)
                attempt += 1
            if self._desk.busy:
                await asyncio.sleep(pause_s(self._config, attempt))

    async def _connect(self) -> aiohttp.ClientWebSocketResponse[bool]:
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                socket = await self._http.session.ws_connect(
                    self._http.url("/v1/ws"),
                    protocols=(SUBPROTOCOL,),
                    headers=self._http.headers(),
                    heartbeat=self._config.heartbeat_s,
                    max_msg_size=self._config.max_message_bytes,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                    decode_text=False,
                )
        except aiohttp.WSServerHandshakeError as refused:
            if refused.status == 401:
                raise Unauthorized("the gateway does not take the token: give a valid one") from None
            if refused.status == 429:
                raise RateLimited("the token asks too often, or has too much open: the websocket was refused") from None
            if refused.status in _AWAY:
                raise GatewayUnreachable(f"the gateway is away: the websocket was answered {refused.status}") from None
            raise _Refused(f"the websocket was answered {refused.status}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as lost:
            why = str(lost) or type(lost).__name__
            raise GatewayUnreachable(f"the gateway at {self._http.base} cannot be reached: {why}") from None
        if socket.protocol != SUBPROTOCOL:
            await socket.close()
            raise _Refused(f"the subprotocol {SUBPROTOCOL} was not taken")
        return socket

    async def _converse(self, socket: "_Socket") -> bool:
        """Speak and listen until the connection is gone, and say whether anything was heard.

        Raises: Unauthorized where the gateway closed because of the token.
        """
        self._desk.disconnected()
        self._poller.forget_places()
        self._dirty.set()
        loop = asyncio.get_running_loop()
        ends = {loop.create_task(self._speak(socket)), loop.create_task(self._listen(socket))}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            self._desk.disconnected()
        for end in done:
            if (error := end.exception()) is not None:
                raise error
        _LOG.info("connection_lost", extra={"close_code": socket.close_code, "goes_on": self._desk.busy})
        self._mute = 0 if socket.heard else self._mute + 1
        self._met |= socket.heard
        if socket.close_code == _CLOSED_UNAUTHORIZED and not (socket.heard and self._http.renews_token):
            raise Unauthorized("the token has expired or was revoked: give a valid one")
        return socket.heard

    async def _speak(self, socket: "_Socket") -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await socket.send(self._desk.commands(), self._config.timeout_s):
                return

    async def _listen(self, socket: "_Socket") -> None:
        for count in itertools.count(1):
            text = await socket.receive()
            if text is None:
                return
            heard = self._desk.hear(text)
            for channel, since in heard.resets:
                catch_up(self._http, channel, since)
            if heard.changed:
                self._dirty.set()
            if heard.put_off:
                asyncio.get_running_loop().call_later(self._config.put_off_s, self._retry)
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _retry(self) -> None:
        self._desk.retry()
        self._dirty.set()


class _Socket:
    """One connection, until it is lost: then nothing can be sent, and None is received."""

    def __init__(self, raw: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._raw = raw
        self.heard = False

    @property
    def close_code(self) -> int | None:
        """The code it was closed with; 1006 where it just broke."""
        return self._raw.close_code

    async def send(self, messages: Sequence[bytes], timeout_s: float) -> bool:
        """Send messages; false where the connection is lost."""
        try:
            for message in messages:
                async with asyncio.timeout(timeout_s):
                    await self._raw.send_str(message.decode())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    async def receive(self) -> bytes | None:
        """Wait for a message; None when the connection is lost."""
        message = await self._raw.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        self.heard = True
        data = message.data
        return data.encode() if isinstance(data, str) else data

    async def aclose(self) -> None:
        """Close the connection, waiting a second at most."""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            await self._raw.close()
