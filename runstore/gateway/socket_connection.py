"""One websocket: its reader, its writer where there is something to write, and its subscriptions.

The writer first sends what waits in the outbox, then does the connection's jobs: beginning a subscription, looking
again after a rollback, replaying. A job sends straight to the peer and so goes at the peer's pace; the feed only
offers to the outbox, and a peer that leaves it full is closed and comes back with its cursor.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Final, Protocol, TypeVar

from aiohttp import WSCloseCode, WSMsgType, web

from runstore.core.errors import (
    AmbiguousRunId,
    InvalidRequest,
    PayloadTooLarge,
    RateLimited,
    RunstoreError,
    StoreUnavailable,
)
from runstore.gateway.allowance import Allowance
from runstore.gateway.config import GatewayConfig
from runstore.gateway.cut import cut
from runstore.gateway.outbox import Key, Message, Outbox, joined_frames
from runstore.wire.messages import (
    ClientMessage,
    ErrorMessage,
    ServerMessage,
    Subscribe,
    decode_message,
    encode_message,
    named_id,
)

_T = TypeVar("_T")
_LOG = logging.getLogger("runstore.gateway.socket")
Job = Callable[[], Awaitable[None]]
_MOST_PAUSE_S: Final = 1.0
_MOST_JOBS_A_SUBSCRIPTION: Final = 2
"""Jobs that may wait for each subscription that there may be: those of one that ended are still to be passed over."""

UNAUTHORIZED: Final = 4401
"""The close code that says: the token expired or was revoked. Get another, then connect again."""

TRY_AGAIN_LATER = WSCloseCode.TRY_AGAIN_LATER
_UNSENT_BYTES: Final = 16 * 1024
"""What a peer may leave unread before its messages go by way of the outbox, which is bounded and waits."""


class Subscribed(Protocol):
    """A subscription as its connection knows it."""

    @property
    def names(self) -> int:
        """How many runs it names."""
        ...

    async def begin(self) -> None:
        """Join, look and speak; raise what was wrong with it."""
        ...

    def leave(self) -> None:
        """Hear nothing more."""
        ...


class Connection:
    """Serve one prepared websocket until it is closed from either side."""

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_closer",
        "_config",
        "_jobs",
        "_limits",
        "_line",
        "_make",
        "_outbox",
        "_subscriptions",
        "_transport",
        "_writer",
        "_ws",
    )

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        config: GatewayConfig,
        make: Callable[["Connection", Subscribe], Subscribed],
        allowance: Allowance,
    ) -> None:
        self._ws = ws
        self._transport = transport
        self._line = transport
        """Where frames go at once: None while anything else is to go first, and once the websocket is closing."""

        self._config = config
        self._make = make
        self._allowance = allowance
        self._limits = config.message_limits
        self._outbox = Outbox(config.outbox_bytes)
        self._jobs: deque[Job] | None = None  # an empty one takes more room than all the rest of this
        self._subscriptions: dict[str, Subscribed] = {}
        self._writer: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether the connection takes nothing more."""
        return self._closer is not None

    async def serve(self) -> None:
        """Read messages until the websocket is closed; returns when it is, and nothing of it is left."""
        try:
            while not self.is_closing:
                message = await self._ws.receive()
                if message.type is WSMsgType.TEXT:
                    await self._take(message.data)
                elif message.type is WSMsgType.BINARY:
                    self.close(WSCloseCode.UNSUPPORTED_DATA, "messages are JSON in text frames")
                else:
                    break
            if self._closer is not None:
                await asyncio.wait([self._closer])
        finally:
            self._silence()
            if self._writer is not None:
                self._writer.cancel()
            if self._closer is not None:
                self._closer.cancel()
            elif self._ws.close_code == WSCloseCode.ABNORMAL_CLOSURE:
                self._abort()

    def offer(self, message: Message, key: Key | None = None) -> None:
        """Let a message be sent when the peer takes it; a peer that lets too much wait is closed."""
        if self._closer is not None or self._go_at_once((message,)):
            return
        if self._outbox.offer(message, key):
            self._wake()
        else:
            self._allowance.counts.slow_readers += 1
            _LOG.info("outbox_full", extra={"held_bytes": self._outbox.held_bytes})
            self.close(TRY_AGAIN_LATER, "the client reads too slowly: reconnect and resume by cursor")

    def offer_all(self, messages: Sequence[Message]) -> None:
        """Let several messages be sent, by one write where the peer keeps up."""
        if self._closer is None and not self._go_at_once(messages):
            for message in messages:
                self.offer(message)

    def hush(self) -> None:
        """Let nothing go at once any more: the websocket is closing, and nothing may follow a close frame."""
        self._line = None

    def tell(self, message: ServerMessage) -> None:
        """Offer a message that is no push."""
        self.offer(Message(encode_message(message)))

    async def send(self, message: Message) -> None:
        """Send at the peer's pace; for jobs only."""
        packed = await self.persist(message.encode)
        if not self.is_closing:
            await self._ws.send_frame(packed, WSMsgType.TEXT)
            if message.is_push:
                self._allowance.counts.websocket_pushes += 1

    def do(self, job: Job) -> None:
        """Let the writer do a job once everything offered before was sent."""
        if not self.is_closing:
            if self._jobs is None:
                self._jobs = deque()
            self._jobs.append(job)
            self._wake()

    def end(self, subscription_id: str, subscription: Subscribed) -> None:
        """Forget a subscription that is over."""
        subscription.leave()
        if self._subscriptions.get(subscription_id) is subscription:
            del self._subscriptions[subscription_id]
            self._allowance.unsubscribe(subscription.names)

    def close(self, code: int, reason: str) -> None:
        """Close the websocket; what waits is dropped, and nothing is sent after the close frame."""
        if self._closer is None:
            self._silence()
            self.hush()
            asyncio.get_running_loop().call_later(self._config.close_s, self._abort)
            self._closer = asyncio.create_task(self._close(code, reason), name="socket-closer")

    def finish(self, code: int, reason: str) -> None:
        """Hear nothing more, and close once what was heard is sent, or when that takes the peer too long."""
        if self._closer is None:
            self._leave_all()
            self.do(partial(self._close_now, code, reason))
            asyncio.get_running_loop().call_later(self._config.finish_s, self.close, code, reason)

    def revoke(self) -> None:
        """Close: the credential that opened the websocket does not hold any longer."""
        self.close(UNAUTHORIZED, "the token expired or was revoked")

    def stop(self) -> None:
        """Finish: the gateway is stopping."""
        self.finish(WSCloseCode.GOING_AWAY, "the gateway is stopping: reconnect and resume by cursor")

    async def persist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the store, again and again while it cannot be reached, for a bounded time.

        Raises: StoreUnavailable.
        """
        end_s, pause_s = monotonic() + self._config.retry_s, 0.1
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                if monotonic() + pause_s > end_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)

    async def _take(self, text: str) -> None:
        try:
            message = self._read(text)
        except RateLimited as error:
            self._refuse(text, error)
            # who asks on regardless is not read any faster than it may ask
            await asyncio.sleep(min(error.retry_after_s, _MOST_PAUSE_S))
            return
        except RunstoreError as error:
            self._refuse(text, error)
            if isinstance(error, PayloadTooLarge):
                limit = f"a message has at most {self._limits.message_bytes} bytes"
                self.do(partial(self._close_now, WSCloseCode.MESSAGE_TOO_BIG, limit))
            return
        try:
            if isinstance(message, Subscribe):
                self._subscribe(message)
            else:
                self._unsubscribe(message.id)
        except RunstoreError as error:
            self._refuse(text, error)

    def _refuse(self, text: str, error: RunstoreError) -> None:
        if isinstance(error, RateLimited):
            self._allowance.counts.messages_refused += 1
        self.tell(ErrorMessage(id=named_id(text), code=error.code, detail=error.detail))

    def _read(self, text: str) -> ClientMessage:
        try:
            message = decode_message(text, self._limits)
        except RunstoreError:
            self._allowance.spend()
            raise
        self._allowance.spend(len(message.run_ids or ()) if isinstance(message, Subscribe) else 0)
        return message

    async def _close_now(self, code: int, reason: str) -> None:
        self.close(code, reason)

    def _subscribe(self, message: Subscribe) -> None:
        if message.id in self._subscriptions:
            raise InvalidRequest(f"there is a subscription {message.id!r} already: unsubscribe it, or take another id")
        if len(self._subscriptions) >= self._config.max_subscriptions:
            raise InvalidRequest(f"the limit is {self._config.max_subscriptions} subscriptions on a connection")
        if len(self._jobs or ()) >= _MOST_JOBS_A_SUBSCRIPTION * self._config.max_subscriptions:
            raise RateLimited("too many subscriptions of this connection have not begun yet: read what was sent first")
        subscription = self._make(self, message)
        self._allowance.subscribe(subscription.names)
        self._subscriptions[message.id] = subscription
        self.do(lambda: self._begin(message.id, subscription))

    def _unsubscribe(self, subscription_id: str) -> None:
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            raise InvalidRequest(f"there is no subscription {subscription_id!r}")
        self.end(subscription_id, subscription)

    async def _begin(self, subscription_id: str, subscription: Subscribed) -> None:
        if self._subscriptions.get(subscription_id) is not subscription:
            return
        try:
            await subscription.begin()
        except RunstoreError as error:
            if self._subscriptions.get(subscription_id) is subscription:
                self.end(subscription_id, subscription)
                self.tell(ErrorMessage(id=subscription_id, code=error.code, detail=_detail(error)))

    def _go_at_once(self, messages: Sequence[Message]) -> bool:
        """Write messages to a peer that keeps up, if they are at hand: that needs no task, and frames are shared."""
        line = self._line
        if line is None or line.is_closing() or line.get_write_buffer_size() > _UNSENT_BYTES:
            return False
        frames = joined_frames(messages, self._config.outbox_bytes)
        if frames is None:
            return False
        line.write(frames)
        self._allowance.counts.websocket_pushes += sum(message.is_push for message in messages)
        return True

    def _wake(self) -> None:
        self._line = None
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="socket-writer")

    async def _write(self) -> None:
        try:
            while not self.is_closing:
                message = self._outbox.take()
                if message is not None:
                    await self.send(message)
                elif self._jobs:
                    await self._jobs.popleft()()
                else:
                    break
        except StoreUnavailable:
            self.close(TRY_AGAIN_LATER, "the store cannot be reached: reconnect and resume by cursor")
        except ConnectionError:
            self._abort()  # the peer is gone; the reader hears of it too
        except Exception:  # noqa: BLE001 - a bug closes this socket only, and loudly
            _LOG.exception("socket_failed")
            self.close(WSCloseCode.INTERNAL_ERROR, "the gateway failed: reconnect and resume by cursor")
        finally:
            self._writer = None
            self._jobs = self._jobs or None
            if self._closer is None and not self._ws.closed:
                self._line = self._transport

    def _silence(self) -> None:
        self._leave_all()
        self._outbox.clear()

    def _leave_all(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.leave()
            self._allowance.unsubscribe(subscription.names)
        self._subscriptions.clear()
        self._jobs = None

    async def _close(self, code: int, reason: str) -> None:
        # All who wait for a full transport wait for one future of aiohttp's, and whoever is cancelled there cancels it
        # for the others. So the writer is left alone until the connection is lost, and a cancellation that comes out
        # of here need not be meant for this task.
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._ws.close(code=code, message=reason.encode())

    def _abort(self) -> None:
        cut(self._transport)


def offer_to_all(connections: Sequence[Connection], messages: Sequence[Message], key: Key | None = None) -> None:
    """Offer the same messages to many connections of one gateway, the frames made once; `key` as in `offer`.

    This loop is what a fan-out costs, so it does no more for who keeps up than to see that, and write.
    """
    if not connections:
        return
    frames = joined_frames(messages, connections[0]._config.outbox_bytes)
    pushes, written = sum(message.is_push for message in messages), 0
    for connection in connections:
        try:
            line = connection._line
            if line is None or frames is None or line.is_closing() or line.get_write_buffer_size() > _UNSENT_BYTES:
                for message in messages:
                    connection.offer(message, key)
            else:
                line.write(frames)
                written += 1
        except Exception:  # noqa: BLE001 - what is wrong with one must not deafen the others
            _LOG.exception("offer_failed")
    connections[0]._allowance.counts.websocket_pushes += pushes * written


def _detail(error: RunstoreError) -> str:
    if isinstance(error, AmbiguousRunId):
        return f"{error.detail} ({', '.join(error.candidates)})"
    return error.detail
