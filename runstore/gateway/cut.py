"""Cut a connection off, with what its peer left unread."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final

from aiohttp.base_protocol import BaseProtocol

_DROP: Final = struct.pack("ii", 1, 0)


def cut(transport: asyncio.Transport | None) -> None:
    """Abort a connection, if there is one yet, with what its peer left unread."""
    if transport is not None:
        let_forget(transport)
        transport.abort()


def let_forget(transport: asyncio.BaseTransport) -> None:
    """Let the kernel forget, once a connection is closed, what it could not deliver.

    Else it goes on offering that to a peer that does not read, for minutes and with up to megabytes each.
    """
    protocol = transport.get_protocol()
    # once the connection is lost, the number of its file may be that of another
    if isinstance(protocol, BaseProtocol) and protocol.transport is transport:
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP)
