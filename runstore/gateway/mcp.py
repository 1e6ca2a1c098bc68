"""`POST /mcp`: the bridge between aiohttp and the MCP SDK, which is imported when the first agent comes.

The SDK speaks ASGI. A request is given to it whole, after everything that is checked of every request; what it sends
is an answer, or a stream of events where an agent is told how its run goes on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from runstore.core.errors import RateLimited
from runstore.gateway.answers import JSON
from runstore.gateway.body import read_body
from runstore.gateway.context import CALLER, SERVICES, services_of
from runstore.gateway.headers import read_trace
from runstore.gateway.mcp_port import GatewayPort
from runstore.gateway.mcp_refusal import refuse
from runstore.gateway.problems import HttpProblem
from runstore.gateway.sse import EVENT_STREAM
from runstore.wire.event import check_depth
from runstore.wire.explain import explain

if TYPE_CHECKING:
    from runstore.mcp.http import Exchange, Message

NOT_INSTALLED: Final = "this gateway has no MCP: install it with the extra, pip install 'runstore[mcp]'"
_AROUND_ARGUMENTS: Final = 8
"""Levels that a message may have beyond those of a tool's arguments: two are needed, and with some more the tool itself
says what is too deep."""

_OURS: Final = ("Connection", "Content-Length", "Transfer-Encoding")
"""Headers that are aiohttp's to write."""


_TYPE: Final = b"content-type"


class McpMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One JSON-RPC message of MCP, a request or a notification."""

    jsonrpc: str
    method: str
    id: int | str | None = None
    params: dict[str, Any] = {}


class McpFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was wrong with a message, as JSON-RPC tells it."""

    code: int
    message: str
    data: Any = None


class McpError(msgspec.Struct, frozen=True, kw_only=True):
    """What the SDK answers to a message that it cannot take."""

    jsonrpc: str
    error: McpFault
    id: int | str | None = None


class LazyExchange:
    """The SDK's side, begun when it is first asked for."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._lock = asyncio.Lock()
        self._exchange: Exchange | None = None

    async def get(self) -> "Exchange":
        """Return it.

        Raises: HttpProblem where the SDK is not installed.
        """
        async with self._lock:
            if self._exchange is None:
                try:
                    # half a second of imports, in which others are answered
                    module = await asyncio.to_thread(import_module, "runstore.mcp.http")
                except ImportError:
                    raise HttpProblem("not_found", NOT_INSTALLED) from None
                exchange: Exchange = module.Exchange(max_body_bytes=self._max_body_bytes)
                await exchange.start()
                self._exchange = exchange
        return self._exchange

    async def stop(self) -> None:
        """End it, if it ever began."""
        if self._exchange is not None:
            await self._exchange.stop()


MCP: Final = web.AppKey("mcp", LazyExchange)


def install_mcp(app: web.Application) -> None:
    """Give an app its MCP.

    Needs: `SERVICES` in the app; called before it starts.
    """
    app[MCP] = LazyExchange(app[SERVICES].config.max_run_body_bytes)
    app.cleanup_ctx.append(_held)


async def _held(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[MCP].stop()


async def post_mcp(request: web.Request) -> web.StreamResponse:
    """Answer one message of an agent."""
    services = services_of(request)
    body = await read_body(request, services, services.config.max_run_body_bytes)
    check_depth(body, "the message", services.config.max_json_depth + _AROUND_ARGUMENTS)
    try:
        message = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # the SDK would take NaN and half of a surrogate pair
        return _parse_error(f"the message cannot be read: {explain(error, body)}")
    try:
        services.rates.spend(request, request[CALLER])
    except RateLimited as error:
        return refuse(message, error)
    exchange = await request.app[MCP].get()
    port = GatewayPort(services, request[CALLER], read_trace(request))
    answer = _Answer(request, body)
    await exchange.answer(port, _scope(request), answer.receive, answer.send)
    assert answer.response is not None
    return answer.response


class _Answer:
    """One exchange in the words of ASGI."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.response: web.StreamResponse | None = None
        self._request = request
        self._body: bytes | None = body
        self._start: Message = {}

    async def receive(self) -> "Message":
        body, self._body = self._body, None
        if body is None:
            # a client that hangs up is noticed by aiohttp, which cancels all of this
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: "Message") -> None:
        # one who hung up is told nothing, and that is no fault of the SDK's
        with suppress(ConnectionError):
            await self._send(message)

    async def _send(self, message: "Message") -> None:
        if message["type"] == "http.response.start":
            self._start = message
            if self._headers()["Content-Type"].startswith(EVENT_STREAM):
                await self._open()
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self.response is None and is_last:
            self.response = web.Response(body=body, status=self._start["status"], headers=self._headers())
            return
        stream = self.response or await self._open()
        if body:
            await stream.write(body)
        if is_last:
            await stream.write_eof()

    async def _open(self) -> web.StreamResponse:
        self.response = web.StreamResponse(status=self._start["status"], headers=self._headers())
        await self.response.prepare(self._request)
        return self.response

    def _headers(self) -> CIMultiDict[str]:
        told = CIMultiDict({"Content-Type": JSON, "Cache-Control": "no-store"})
        told.update({name.decode(): value.decode("latin-1") for name, value in self._start["headers"]})
        for name in _OURS:
            told.popall(name, None)
        return told


def _scope(request: web.Request) -> "Message":
    told = [(name.lower(), value) for name, value in request.raw_headers]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": f"{request.version.major}.{request.version.minor}",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path.partition("?")[0].encode(),
        "query_string": request.rel_url.raw_query_string.encode(),
        "root_path": "",
        # what the door takes for JSON, the SDK is to take for JSON too
        "headers": [*((name, value) for name, value in told if name != _TYPE), (_TYPE, JSON.encode())],
        "client": None,
        "server": None,
    }


def _parse_error(said: str) -> web.Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": said}}
    return web.Response(body=msgspec.json.encode(error), status=400, headers={"Content-Type": JSON})
