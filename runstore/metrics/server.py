"""A port of its own for the numbers, with `/healthz` and `/readyz` for whoever minds processes.

It asks for no token, so it listens on loopback unless told otherwise; a request that is slow or long is cut off.
"""

import asyncio
import errno
import logging
from contextlib import suppress
from typing import Final

from runstore.core.errors import InvalidRequest
from runstore.metrics.board import Unreadable
from runstore.metrics.numbers import Numbers

_HEAD_BYTES: Final = 8 * 1024
_HEAD_S: Final = 5.0
_ANSWER_S: Final = 30.0
_MOST_AT_ONCE: Final = 32
_TEXT: Final = "text/plain; charset=utf-8"
_log = logging.getLogger("runstore.metrics")


class CannotListen(InvalidRequest):
    """The numbers cannot be given out at the address that was set."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        at = f"{host}:{port}"
        super().__init__(
            f"{at} is taken by another program: give another --metrics-port, or 0 for any free one"
            if error.errno == errno.EADDRINUSE
            else f"cannot listen on {at} for metrics: {error.strerror or error}"
        )


class MetricsServer:
    """Give out numbers on an address of its own."""

    def __init__(self, numbers: Numbers, host: str, port: int, *, reuse_port: bool = False) -> None:
        self._numbers = numbers
        self._host = host
        self._port = port
        self._reuse_port = reuse_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._is_ready = False

    @property
    def url(self) -> str:
        """Where the numbers are."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 - shown, not bound
        return f"http://[{host}]:{self._port}/metrics" if ":" in host else f"http://{host}:{self._port}/metrics"

    def tell_ready(self) -> None:
        """Answer from now on that the service has begun its work."""
        self._is_ready = True

    async def start(self) -> None:
        """Begin to answer. Raises: CannotListen."""
        try:
            self._server = await asyncio.start_server(
                self._take, self._host, self._port, limit=_HEAD_BYTES, reuse_port=self._reuse_port or None
            )
        except OSError as error:
            raise CannotListen(self._host, self._port, error) from None
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop; may be called twice."""
        if self._server is not None:
            self._server.close()
            for task in tuple(self._open):
                task.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), _HEAD_S)

    async def wait(self) -> None:
        """Return when it was stopped."""
        if self._server is not None:
            await self._server.wait_closed()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) > _MOST_AT_ONCE:
                return
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(_ANSWER_S):
                writer.write(await self._answer(head))
                await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            pass  # who asks like this gets nothing
        except Exception:  # noqa: BLE001 - a bug, told where it can be read
            _log.exception("answer_failed")
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        lines = head.decode("latin-1").split("\r\n")
        method, _, rest = lines[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return _write("405 Method Not Allowed", b"use GET\n", method, extra="Allow: GET, HEAD\r\n")
        if path == "/healthz":
            return _write("200 OK", b"alive\n", method)
        if path == "/readyz" and not self._is_ready:
            return _write("503 Service Unavailable", b"it has not begun: is Redis there?\n", method)
        if path == "/readyz":
            return _write("200 OK", b"ready\n", method)
        if path != "/metrics":
            return _write("404 Not Found", b"there are /metrics, /healthz and /readyz\n", method)
        fields = [line.partition(":") for line in lines[1:]]
        accept = ",".join(value.strip() for name, _, value in fields if name.lower() == "accept")
        try:
            body, media = await self._numbers.expose(accept)
        except Unreadable as error:
            return _write("503 Service Unavailable", f"{error}\n".encode(), method)
        return _write("200 OK", body, method, media=media)


def _write(status: str, body: bytes, method: str, *, media: str = _TEXT, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)
