"""`GET /v1/ws`: who may open a websocket, and under which subprotocol.

A client must offer `runstore.v1`. One that offers others, or none, gets its websocket, is told why and closed with
1002, since a browser learns nothing from a handshake that was refused; that is why such a handshake is answered with
one of its own subprotocols.
"""

import asyncio
import logging
from functools import partial
from typing import Final

from aiohttp import WSCloseCode, web

from runstore.gateway.allowance import Allowance
from runstore.gateway.context import CALLER, services_of
from runstore.gateway.cut import let_forget
from runstore.gateway.problems import HttpProblem
from runstore.gateway.socket_connection import Connection, Subscribed
from runstore.gateway.socket_project import ProjectSubscription
from runstore.gateway.socket_runs import Reach, RunsSubscription
from runstore.gateway.socket_streams import STREAMS
from runstore.wire.messages import BEARER_SUBPROTOCOL, SUBPROTOCOL, Subscribe

_WRITER_LIMIT_BYTES: Final = 256 * 1024

# aiohttp tells what a client offered where it knows none of it, and a token may be among that
logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


async def open_socket(request: web.Request) -> web.StreamResponse:
    """Serve a websocket until it is closed.

    Needs: a route that asks for a token and checks the origin.
    """
    services, streams = services_of(request), request.app[STREAMS]
    caller = request[CALLER]
    protocol = _subprotocol(request)
    ws = _Websocket(
        timeout=streams.config.close_s,
        heartbeat=streams.config.heartbeat_s,
        protocols=(protocol,) if protocol else (),
        compress=False,
        max_msg_size=2 * streams.config.max_message_bytes,
        writer_limit=_WRITER_LIMIT_BYTES,
    )
    if protocol is not None:
        ws.headers["Sec-WebSocket-Protocol"] = protocol  # aiohttp's own choice looks at the first line of several only
    if not ws.can_prepare(request):
        raise HttpProblem(
            "upgrade_required", "this address speaks websocket, version 13", headers={"Upgrade": "websocket"}
        )
    services.holds.take(caller.principal)  # no `with`: that would be held in memory for as long as the socket is open
    try:
        await ws.prepare(request)
        ws.headers.clear()
        if protocol == SUBPROTOCOL:
            await _serve(request, ws)
        else:
            await ws.close(code=WSCloseCode.PROTOCOL_ERROR, message=b"offer the subprotocol runstore.v1")
    except asyncio.CancelledError:
        # where the connection is lost, that is how we hear of it: nobody waits for more
        if request.transport is not None:
            raise
    finally:
        services.holds.give_back(caller.principal)
    if request.transport is None:
        await _let_go(ws)
    return ws


async def _let_go(ws: "_Websocket") -> None:
    """Leave nothing of a lost websocket in memory: neither in its timer, until the next ping is due, nor as a cycle.

    A crowd that loses its connections comes back at once, and what is left of it would be there twice.
    """
    await ws.close()
    if (error := ws.exception()) is not None:
        error.__traceback__ = None  # its frames hold the websocket, which holds it


def make_subscription(reach: Reach, connection: Connection, message: Subscribe) -> Subscribed:
    """Make what a client asks for."""
    if message.project_name is not None:
        return ProjectSubscription(connection, reach, message)
    return RunsSubscription(connection, reach, message)


async def _serve(request: web.Request, ws: "_Websocket") -> None:
    services, streams, caller = services_of(request), request.app[STREAMS], request[CALLER]
    make = partial(make_subscription, Reach.of(services, caller.principal))
    allowance = Allowance(services, caller.principal)
    connection = Connection(ws, request.transport, streams.config, make, allowance)
    ws.connection = connection
    streams.add(connection, caller)
    services.counts.sockets += 1
    try:
        await connection.serve()
    finally:
        services.counts.sockets -= 1
        streams.remove(connection)
        ws.connection = None


def _subprotocol(request: web.Request) -> str | None:
    """Choose the subprotocol to answer with: ours, else the client's own first one, to be closed under it.

    Raises: HttpProblem where only a token was offered.
    """
    lines = request.headers.getall("Sec-WebSocket-Protocol", ())
    offered = [one for line in lines for name in line.split(",") if (one := name.strip())]
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    others = [one for one in offered if not one.startswith(BEARER_SUBPROTOCOL)]
    if offered and not others:
        raise HttpProblem("bad_request", "offer the subprotocol runstore.v1 beside the token")
    return others[0] if others else None


class _Websocket(web.WebSocketResponse):
    """A websocket that tells before it sends a close frame, its answer to the peer's own too.

    One whose ping is not answered is closed by aiohttp itself, which knows of nothing that the kernel may still hold.
    """

    connection: Connection | None = None

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if self.connection is not None:
            self.connection.hush()
        return await super().close(code=code, message=message, drain=drain)

    def _pong_not_received(self) -> None:
        if self._req is not None and self._req.transport is not None:
            let_forget(self._req.transport)
        super()._pong_not_received()
