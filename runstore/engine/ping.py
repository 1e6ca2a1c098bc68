"""Ask a server over a plain socket whether it is ours and ready, without a client library."""

import socket
from enum import StrEnum

LOOPBACK = "127.0.0.1"


class Answer(StrEnum):
    """What came back."""

    READY = "ready"
    LOADING = "loading"
    REFUSED = "refused"
    SILENT = "silent"


def ask(port: int, password: str, *, timeout_s: float) -> Answer:
    """Send AUTH and PING; `REFUSED` comes from a server that is not ours, `SILENT` from none."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as sock:
            sock.sendall(_command("AUTH", password) + _command("PING"))
            auth, ping = _two_lines(sock)
    except OSError:
        return Answer.SILENT
    # PONG alone proves nothing: a stranger's server without a password says it too
    if auth != b"+OK":
        return Answer.REFUSED
    if ping == b"+PONG":
        return Answer.READY
    return Answer.LOADING if ping.startswith(b"-LOADING") else Answer.REFUSED


def _command(*words: str) -> bytes:
    lines = [f"*{len(words)}", *(line for word in words for line in (f"${len(word)}", word)), ""]
    return "\r\n".join(lines).encode()


def _two_lines(sock: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while received.count(b"\r\n") < 2:
        chunk = sock.recv(4096)
        if not chunk:
            raise ConnectionError("closed before both answers")
        received += chunk
    first, second, *_ = received.split(b"\r\n")
    return first, second
