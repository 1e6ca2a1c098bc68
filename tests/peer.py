"""The far side of a websocket, without the network: a connection of the gateway is served to it as to any other."""

import asyncio
from functools import partial
from typing import Any

import msgspec
from aiohttp import WSMessage, WSMsgType

from runstore.core.principal import Principal
from runstore.gateway.allowance import Allowance
from runstore.gateway.context import Services
from runstore.gateway.socket import make_subscription
from runstore.gateway.socket_connection import Connection
from runstore.gateway.socket_runs import Reach


class Peer:
    """What a client says, and all that it heard."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.news = asyncio.Event()
        self._said: asyncio.Queue[WSMessage] = asyncio.Queue()

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._said.put_nowait(WSMessage(WSMsgType.TEXT, msgspec.json.encode(message).decode(), ""))

    def hang_up(self) -> None:
        """Close the connection."""
        self._said.put_nowait(WSMessage(WSMsgType.CLOSED, None, None))

    @property
    def closed(self) -> bool:
        """Whether the gateway has closed the connection."""
        return self.close_code is not None

    async def receive(self) -> WSMessage:
        return await self._said.get()

    async def send_frame(self, packed: bytes, _: WSMsgType) -> None:
        self.heard.append(msgspec.json.decode(packed))
        self.news.set()

    async def close(self, *, code: int, message: bytes) -> None:
        self.close_code = code
        self.news.set()
        self.hang_up()


async def serve(services: Services, principal: Principal, peer: Peer) -> None:
    """Serve a peer until either side ends it."""
    make = partial(make_subscription, Reach.of(services, principal))
    connection = Connection(peer, None, services.config, make, Allowance(services, principal))  # type: ignore[arg-type]
    await connection.serve()
