"""What aiohttp's server leaves to us: timers for what stalls, bounds on connections, and problems for what is no HTTP.

Three timers a connection: the head of a request must arrive in time (408), a peer must read what was sent to it (its
connection is cut), and aiohttp's own closes what stays idle. One who is turned away gets an answer and a moment to read
it, so that it is not lost with the connection; a crowd is cut off.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from sys import intern
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from runstore.gateway.access_log import AccessLog
from runstore.gateway.addresses import network_of
from runstore.gateway.config import GatewayConfig
from runstore.gateway.counts import GatewayCounts
from runstore.gateway.cut import cut
from runstore.gateway.problems import RETRY_AFTER_S, problem, respond, write
from runstore.gateway.repeat import Head, Repeats, may_be_head, read_head
from runstore.request_id import HEADER, begin

_TURNED_AWAY_AT_ONCE: Final = 256
_GOODBYE_S: Final = 1.0
_WARN_EVERY_S: Final = 1.0
_READS: Final = 4
"""Heads of a connection that are remembered with none repeated, before that is given up."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_TOO_MANY_HEADERS: Final = "Too many headers received"
"""What aiohttp says of them; it has no error of its own for this."""
_log = logging.getLogger("runstore.gateway")


class GuardedConnection(web.RequestHandler):
    """One connection, with timers."""

    __slots__ = (
        "_config",
        "_guard",
        "_head_bytes",
        "_head_timer",
        "_is_counted",
        "_is_turned_away",
        "_last",
        "_reads_left",
        "_stall_timer",
        "address",
    )

    def __init__(self, manager: "GuardedServer", config: GatewayConfig, **options: Any) -> None:
        super().__init__(manager, **options)
        self._guard = manager
        self._config = config
        self.address = ""
        self._is_counted = False
        self._is_turned_away = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._last: Head | None = None
        self._reads_left = _READS
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless its address has too many."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = intern(network_of(str(peer[0]))) if isinstance(peer, tuple) else ""
        self._is_counted = True
        if not self._guard.admit(self.address):
            self._guard.counts.connections_refused += 1
            self._guard.warn_of_too_many(self.address)
            most = self._config.connections_per_address
            told = problem("rate_limited", f"the limit is {most} connections from one address: close some")
            self._turn_away(write(told, {"Retry-After": str(RETRY_AFTER_S)}))
            return
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if self._is_counted:
            self._is_counted = False
            self._guard.release(self.address)
        if self._is_turned_away:
            self._guard.turned_away -= 1
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._data_received_cb = None  # or a websocket and its connection would hold each other

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that they begin and do not end must end in time, and before it is too large."""
        if self._is_turned_away:
            return
        if self._last is not None:
            if not (self._is_between_requests and self._last.is_in(data)):
                self._last = None
            elif self._answer_repeat(self._last, data):
                return
        is_waiting = self._is_between_requests
        if is_waiting:
            room = self._config.max_head_bytes - self._head_bytes
            if len(data) > room and data.find(_END_OF_HEAD, 0, room) < 0:
                most = self._config.max_head_bytes
                self._turn_away(write(problem("head_too_large", f"the head is over the limit of {most} bytes")))
                return
        super().data_received(data)
        if is_waiting and self._last is None and self._reads_left and may_be_head(data):
            self._remember(data)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._head_bytes += len(data)
            if self._head_timer is None and data:
                self._start_head_timer()
            return
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    @property
    def _is_between_requests(self) -> bool:
        waiter = self._waiter
        return waiter is not None and not waiter.done()

    def _remember(self, data: bytes) -> None:
        """Remember what was just read, if it is one plain look-up, for the next one to be known by."""
        if len(self._messages) == 1 and not self._logging_enabled and not self._force_close:
            self._reads_left -= 1
            self._last = read_head(data, self._messages[0][0])

    def _answer_repeat(self, last: Head, data: bytes) -> bool:
        """Answer a look-up like the last one at once, if the peer keeps up; else it is read as any other."""
        transport = self.transport
        if self._close or self._force_close or transport is None:
            return False
        if transport.is_closing() or transport.get_write_buffer_size():
            return False
        answer = self._guard.repeats.answer(last, data)
        if answer is None:
            return False
        self._reads_left = _READS
        self._guard.requests_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        transport.write(answer)
        return True

    def pause_writing(self) -> None:
        """Begin to count how long the peer leaves what was sent unread."""
        super().pause_writing()
        self._stall_timer = self._loop.call_later(self._config.write_stall_s, self._stall)

    def resume_writing(self) -> None:
        """Stop counting."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as a request."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        self._guard.counts.answered(request, status)
        request_id = begin(None)
        if status >= 500:
            _log.error("connection_failed", exc_info=exc)
            failed = problem("internal_error", "something went wrong here; it was logged")
            return respond(failed, {HEADER: request_id}, close=True)
        _log.info("malformed_request", extra={"peer": request.remote, "kind": type(exc).__name__})
        if isinstance(exc, LineTooLong):
            most = self._config.max_head_line_bytes
            told = problem("head_too_large", f"the request line or a header is over the limit of {most} bytes")
        elif isinstance(exc, BadHttpMessage) and exc.message == _TOO_MANY_HEADERS:
            told = problem("head_too_large", f"the request has more than {self._config.max_headers} headers")
        else:
            told = problem("bad_request", "this cannot be read as HTTP/1.1")
        return respond(told, {HEADER: request_id}, close=True)

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(self._config.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        transport = self.transport
        if transport is None or self._waiter is None or self._waiter.done():
            return
        transport.write(write(problem("request_timeout", "the head of the request did not arrive in time")))
        self.force_close()

    def _turn_away(self, answer: bytes) -> None:
        """Answer before there is a request, and close once that was read."""
        transport = self.transport
        if transport is None or self._guard.turned_away >= _TURNED_AWAY_AT_ONCE:
            self._abort()
            return
        self._is_turned_away = True
        self._guard.turned_away += 1
        transport.write(answer)
        if transport.can_write_eof():
            transport.write_eof()
        # to close at once would take back the answer where the peer is still sending
        self._loop.call_later(_GOODBYE_S, self._abort)

    def _stall(self) -> None:
        self._guard.counts.slow_readers += 1
        cut(self.transport)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class GuardedServer(web.Server):
    """The connections of one gateway."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        config: GatewayConfig,
        *,
        request_factory: Any,
        access_log: logging.Logger,
        repeats: Repeats,
        counts: GatewayCounts,
    ) -> None:
        super().__init__(handler, request_factory=request_factory, handler_cancellation=True)
        self._config = config
        self.repeats = repeats
        self.counts = counts
        self.turned_away = 0
        self._open: Counter[str] = Counter()
        self._warned_at_s = float("-inf")
        self._options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": config.keepalive_s,
            "access_log_class": AccessLog,
            "access_log": access_log,
            "max_line_size": config.max_head_line_bytes,
            "max_field_size": config.max_head_line_bytes,
            "max_headers": config.max_headers,
            "lingering_time": 2.0,
            # or those who came within one second, and all who heard the last event, would be pinged in one step
            "timeout_ceil_threshold": math.inf,
            "auto_decompress": False,
        }

    def __call__(self) -> GuardedConnection:
        """Make the protocol of a new connection."""
        return GuardedConnection(self, self._config, **self._options)

    def admit(self, address: str) -> bool:
        """Count a connection; false where its address has too many."""
        self._open[address] += 1
        return not 0 < self._config.connections_per_address < self._open[address]

    def warn_of_too_many(self, address: str) -> None:
        """Log that an address has too many connections, now and then."""
        now_s = time.monotonic()
        if now_s - self._warned_at_s >= _WARN_EVERY_S:
            self._warned_at_s = now_s
            _log.warning("too_many_connections", extra={"peer": address})

    def release(self, address: str) -> None:
        """Count a connection no longer."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
