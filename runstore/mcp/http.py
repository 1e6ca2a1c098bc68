"""The SDK's streamable HTTP, without sessions: every request stands for itself, so any gateway answers any of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from runstore.mcp.port import ToolPort
from runstore.mcp.server import PORT, make_server

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# it tells every answer that it sends, outputs and what a caller put where it does not belong included
logging.getLogger("sse_starlette.sse").setLevel(logging.INFO)


class Exchange:
    """Answers requests, each given as ASGI has it, from `start` on until `stop`."""

    def __init__(self, *, max_body_bytes: int) -> None:
        self._manager = StreamableHTTPSessionManager(
            make_server(), stateless=True, max_request_body_size=max_body_bytes
        )
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        # what holds the SDK's requests must be entered and left in one task
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(started), name="mcp-exchange")
        await started

    async def stop(self) -> None:
        """End what is still being answered."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def answer(self, port: ToolPort, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, for the caller that the port stands for."""
        await self._manager.handle_request({**scope, PORT: port}, receive, send)

    async def _hold(self, started: "asyncio.Future[None]") -> None:
        async with self._manager.run():
            started.set_result(None)
            await self._stop.wait()
