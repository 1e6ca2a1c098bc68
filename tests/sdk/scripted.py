"""A small server that speaks the protocol, for cases in which the other side must do a certain thing."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import WSMsgType, web

from runstore.client.run import Run


def a_run(run_id: str | None = None, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "run_id": run_id or str(uuid4()),
        "run_number": 1,
        "project_name": "forecasts",
        "status": "running",
        "commit_sha": None,
        "started_at": "2026-04-28T10:00:00+00:00",
        "finished_at": None,
        "error_message": None,
        "output": None,
        "truncated": False,
    }
    return msgspec.convert({**fields, **changes}, Run)


class Scripted:
    """Runs that end when told to, and every request and message that came."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.requests: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.opened = 0
        self.subscriptions: dict[web.WebSocketResponse, dict[str, dict[str, Any]]] = {}
        self.refuse_websocket: int | None = None
        self.answer: Callable[[web.Request], web.StreamResponse | None] = lambda request: None
        self.on_subscribe: Callable[[web.WebSocketResponse, dict[str, Any]], Any] | None = None
        self.cursor = 0
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/ws", self._serve_socket)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for socket in list(self.subscriptions):
            await socket.close(code=1001)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def cut(self) -> None:
        """Cut every connection without a word."""
        for socket in list(self.subscriptions):
            assert socket._req is not None
            assert socket._req.transport is not None
            socket._req.transport.abort()

    async def tell(self, run: Run) -> None:
        """Let a run stand so, and push it."""
        self.runs[run.run_id] = run
        self.cursor += 1
        for socket, subscriptions in list(self.subscriptions.items()):
            for asked in list(subscriptions.values()):
                if run.run_id in asked.get("run_ids", ()) or run.project_name == asked.get("project_name"):
                    await self.push(socket, asked, run)
        async with self._changed:
            self._changed.notify_all()

    async def end(self, run_id: str, **changes: Any) -> Run:
        run = a_run(run_id, status="success", finished_at="2026-04-28T10:00:01+00:00", **changes)
        await self.tell(run)
        return run

    async def push(self, socket: web.WebSocketResponse, asked: dict[str, Any], run: Run) -> None:
        if asked.get("events") != "all" and not run.is_terminal:
            return
        pushed = {"type": "run", "id": asked["id"], "cursor": str(self.cursor), "run": run}
        await socket.send_str(msgspec.json.encode(pushed).decode())
        if run.is_terminal and "run_ids" in asked:
            asked["open"].discard(run.run_id)
        if "run_ids" in asked and not asked["open"]:
            await self.send(socket, {"type": "done", "id": asked["id"]})
            self.subscriptions[socket].pop(asked["id"], None)

    async def send(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_str(msgspec.json.encode(message).decode())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that requests and messages bring about."""
        async with asyncio.timeout(40), self._changed:
            await self._changed.wait_for(holds)

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        await self._note()
        if self.refuse_websocket is not None:
            return web.Response(status=self.refuse_websocket)
        socket = web.WebSocketResponse(protocols=("runstore.v1",))
        await socket.prepare(request)
        self.opened += 1
        self.subscriptions[socket] = {}
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._take(socket, msgspec.json.decode(message.data))
        finally:
            del self.subscriptions[socket]
            await self._note()
        return socket

    async def _take(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["type"] == "unsubscribe":
            self.subscriptions[socket].pop(message["id"], None)
        elif self.on_subscribe is not None:
            await self.on_subscribe(socket, message)
        else:
            await self.accept(socket, message)
        await self._note()

    async def accept(self, socket: web.WebSocketResponse, asked: dict[str, Any]) -> None:
        self.subscriptions[socket][asked["id"]] = asked
        ids = asked.get("run_ids", [])
        asked["open"] = set(ids)
        unknown = [run_id for run_id in ids if run_id not in self.runs]
        said = {"type": "subscribed", "id": asked["id"], "run_ids": ids, "unknown": unknown}
        await self.send(socket, {**said, "cursor": str(self.cursor)})
        for run_id in ids:
            if run_id in self.runs and (self.runs[run_id].is_terminal or asked.get("events") == "all"):
                await self.push(socket, asked, self.runs[run_id])

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        await self._note()
        scripted = self.answer(request)
        if scripted is not None:
            return scripted
        if request.path.endswith("/events"):
            return web.Response(status=404, text="a proxy lets no streams through")
        prefix = request.path.removeprefix("/v1/runs/")
        run_id = next((run_id for run_id in self.runs if run_id.startswith(prefix)), prefix)
        wait = request.headers.get("Prefer")
        if wait is not None and run_id in self.runs:
            try:
                async with asyncio.timeout(float(wait.removeprefix("wait="))), self._changed:
                    await self._changed.wait_for(lambda: self.runs[run_id].is_terminal)
            except TimeoutError:
                pass
        if run_id not in self.runs:
            return problem(404, "run_not_found", "there is no such run")
        return web.Response(body=self.runs[run_id].to_json(), content_type="application/json")


def problem(status: int, code: str, detail: str, **more: Any) -> web.Response:
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code, **more}
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/problem+json")
