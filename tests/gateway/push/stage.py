"""A gateway and a projector over one real store, clients of the gateway, and gates that hold a look-up open."""

import asyncio
import gc
import json
import socket as sockets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.feed import FeedTail
from runstore.gateway.app import Gateway
from runstore.gateway.config import GatewayConfig
from runstore.gateway.socket_streams import STREAMS
from runstore.ports import LogChunk, TokenRecord
from runstore.projector import Projector
from tests.waiting import happens

TOKEN = "push-tests-token-of-all-projects"
SUBPROTOCOL = "runstore.v1"
SOON_S = 30.0
"""How long anything may take before a test gives up; on a busy machine all of it is slow."""


def websockets() -> list[web.WebSocketResponse]:
    """Find the websockets that are somewhere in this process's memory."""
    return [each for each in gc.get_objects() if isinstance(each, web.WebSocketResponse)]


class KeptTokens:
    """API tokens in memory."""

    def __init__(self) -> None:
        self.by_name: dict[str, TokenRecord] = {}

    async def put(self, token: TokenRecord) -> bool:
        return self.by_name.setdefault(token.name, token) is token

    async def list_tokens(self) -> list[TokenRecord]:
        return list(self.by_name.values())

    async def revoke(self, name: str) -> bool:
        return self.by_name.pop(name, None) is not None

    async def make(self, bearer: str, **options: Any) -> str:
        digest = sha256(bearer.encode()).hexdigest()
        told = {"scopes": (Scope.READ,), "projects": None, "created_at_s": 0, **options}
        await self.put(TokenRecord(name=bearer, hash=digest, **told))
        return bearer


class KeptLogs:
    """Log streams in memory."""

    def __init__(self) -> None:
        self.pieces: dict[RunId, list[LogChunk]] = {}

    async def append_logs(self, run_id: RunId, chunks: Sequence[tuple[str, bytes]]) -> None:
        kept = self.pieces.setdefault(run_id, [])
        for stream, data in chunks:
            kept.append(LogChunk(after=f"{len(kept) + 1}-0", stream=stream, data=data))

    async def read_logs(self, run_id: RunId, after: str, block_ms: int) -> list[LogChunk]:
        number = int(after.partition("-")[0])
        return [piece for piece in self.pieces.get(run_id, []) if int(piece.after.partition("-")[0]) > number][:2]


class Gate:
    """Stands before or behind a call: says when it was reached and lets it go on when told."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def hold(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Stage:
    """What a test plays on."""

    def __init__(self, store: RedisStore, gateway: Gateway, http: aiohttp.ClientSession, projector: Projector) -> None:
        self.store = store
        self.gateway = gateway
        self.http = http
        self.projector = projector
        self.tokens: KeptTokens = store.tokens  # type: ignore[assignment]
        self.logs: KeptLogs = store.logs  # type: ignore[assignment]

    @property
    def tail(self) -> FeedTail:
        return self.gateway.services.tail

    @property
    def open_streams(self) -> int:
        assert self.gateway._runner is not None
        return len(self.gateway._runner.app[STREAMS])

    def configure_streams(self, **changes: Any) -> None:
        """Change how sockets and streams are treated from now on."""
        assert self.gateway._runner is not None
        streams = self.gateway._runner.app[STREAMS]
        streams.config = msgspec.structs.replace(streams.config, **changes)

    async def project_again(self) -> None:
        """Start another projector, for one that was stopped stays so."""
        self.projector = Projector(self.store)
        await self.projector.start()

    async def publish(self, run_id: str, status: str, *, fold: bool = True, **more: Any) -> None:
        """Write an event to the log; return once the gateway's tail has told it."""
        event = {"run_id": run_id, "status": status, "project_name": "forecasts", **more}
        entry = await self.store.log.append(RunId(run_id), json.dumps(event).encode())
        if fold:
            await self.tail.passed(self.tail.partition_of(RunId(run_id)), entry, SOON_S)

    @asynccontextmanager
    async def socket(self, token: str = TOKEN, **options: Any) -> AsyncIterator["Socket"]:
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        options.setdefault("protocols", (SUBPROTOCOL,))
        async with self.http.ws_connect(self.gateway.url + "/v1/ws", headers=headers, max_msg_size=0, **options) as ws:
            yield Socket(ws)

    @asynccontextmanager
    async def events(self, path: str, token: str = TOKEN, **headers: str) -> AsyncIterator["Events"]:
        told = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", **headers}
        async with self.http.get(self.gateway.url + path, headers=told) as response:
            yield Events(response)

    async def get(self, path: str, token: str = TOKEN, **headers: str) -> tuple[int, bytes, Any]:
        told = {"Authorization": f"Bearer {token}", **headers}
        async with self.http.get(self.gateway.url + path, headers=told) as response:
            return response.status, await response.read(), response.headers


class Socket:
    """A websocket client that waits no longer than it must."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def tell(self, **message: Any) -> None:
        await self.ws.send_str(json.dumps(message))

    async def subscribe(self, subscription_id: str = "a", **message: Any) -> None:
        await self.tell(type="subscribe", id=subscription_id, **message)

    async def hear(self, kind: str | None = None) -> dict[str, Any]:
        async with asyncio.timeout(SOON_S):
            message = await self.ws.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, f"closed with {self.ws.close_code}, not {kind}"
        told: dict[str, Any] = json.loads(message.data)
        assert kind is None or told["type"] == kind, told
        return told

    async def hear_until(self, kind: str) -> list[dict[str, Any]]:
        heard = [await self.hear()]
        while heard[-1]["type"] != kind:
            heard.append(await self.hear())
        return heard

    async def closed(self) -> int | None:
        async with asyncio.timeout(SOON_S):
            while (message := await self.ws.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        return self.ws.close_code


class stuck:  # noqa: N801 - used like a function
    """A subscriber of all that happens who has stopped reading, its buffers small."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def _small(self, address: Any) -> sockets.socket:
        made = sockets.socket(address[0], address[1], address[2])
        made.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 8192)
        return made

    async def __aenter__(self) -> "stuck":
        connector = aiohttp.TCPConnector(socket_factory=self._small)
        self._http = aiohttp.ClientSession(connector=connector)
        ws = await self._http.ws_connect(
            self._stage.gateway.url + "/v1/ws",
            headers={"Authorization": f"Bearer {TOKEN}"},
            protocols=(SUBPROTOCOL,),
            max_msg_size=0,
        )
        self.socket = Socket(ws)
        await self.socket.subscribe("p", project_name="forecasts")
        await self.socket.hear("subscribed")
        assert ws._response.connection is not None
        self._transport = ws._response.connection.transport
        assert self._transport is not None
        self._transport.pause_reading()  # type: ignore[attr-defined]
        return self

    def resume(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()  # type: ignore[attr-defined]

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()


class Events:
    """An SSE client."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def hear(self) -> dict[str, Any] | None:
        """Return the next event as its fields, with `data` decoded; None at the end of the stream."""
        fields: dict[str, Any] = {}
        async with asyncio.timeout(SOON_S):
            while line := await self.response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "data":
                    fields[name] = json.loads(value)
                elif name in ("id", "event"):
                    fields[name] = value
                elif not name and "event" in fields:
                    return fields
        return None

    async def rest(self) -> list[dict[str, Any]]:
        heard = []
        while (event := await self.hear()) is not None:
            heard.append(event)
        return heard


@asynccontextmanager
async def staged(url: str, **config: Any) -> AsyncIterator[Stage]:
    """Open a store, and start a projector and a gateway over it."""
    async with RedisStore.open(url) as store:
        tokens = KeptTokens()
        store.__dict__.update(tokens=tokens, logs=KeptLogs(), served=None)
        await tokens.make(TOKEN, scopes=(Scope.ADMIN,))
        projector = Projector(store)
        await projector.start()
        gateway = Gateway(store, GatewayConfig(port=0, tokens_refresh_s=0.1, **config))
        await gateway.start()
        async with aiohttp.ClientSession() as http:
            stage = Stage(store, gateway, http, projector)
            try:
                yield stage
            finally:
                await gateway.stop()
                await stage.projector.stop()


def new_run() -> str:
    return str(uuid4())


until = partial(happens, within_s=SOON_S)
"""Wait for something that sets no signal."""
