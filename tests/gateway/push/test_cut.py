"""A connection is cut off with what its peer left unread, on either kind of event loop."""

import asyncio
import select
import socket
from collections.abc import Callable

import pytest
import uvloop
from aiohttp.base_protocol import BaseProtocol

from runstore.gateway.cut import cut, let_forget

CUTS = [cut, lambda transport: (let_forget(transport), transport.close())]


class Server(BaseProtocol):
    def __init__(self, made: "asyncio.Queue[asyncio.Transport]") -> None:
        super().__init__(asyncio.get_running_loop())
        self._made = made
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self._made.put_nowait(self.transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("end", CUTS, ids=["cut", "closed"])
def test_the_kernel_of_a_peer_that_does_not_read_is_told(
    loop: Callable[[], asyncio.AbstractEventLoop], end: Callable[[asyncio.Transport], object]
) -> None:
    async def play() -> list[tuple[int, int]]:
        made: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
        server = Server(made)
        async with await asyncio.get_running_loop().create_server(lambda: server, "127.0.0.1", 0) as listening:
            with socket.socket() as never:
                never.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                never.setblocking(False)
                await asyncio.get_running_loop().sock_connect(never, listening.sockets[0].getsockname())
                transport = await made.get()
                transport.write(b"x" * 100_000)
                end(transport)
                await server.lost.wait()
                end(transport)  # once more changes nothing

                heard = select.poll()
                heard.register(never, 0)
                return await asyncio.to_thread(heard.poll, 20_000)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(play())
