"""Bare aiohttp: the yardstick of the door. Run as `python -m runstore.bench.bare REDIS_URL`.

`/ready` answers a ready-made body, `/looked/{id}` one HGETALL each, `/ws` holds a websocket, and `POST /tell` sends its
body to all of them.
"""

import asyncio
import json
import sys
from typing import Any, Final

import uvloop
from aiohttp import web
from redis.asyncio import Redis

READY: Final = b'{"run":"' + b"x" * 489 + b'"}'


def make_app(redis: Any) -> web.Application:
    """Make the application."""
    sockets: list[web.WebSocketResponse] = []

    async def ready(_: web.Request) -> web.Response:
        return web.Response(body=READY, content_type="application/json")

    async def looked(request: web.Request) -> web.Response:
        fields = await redis.hgetall("bare:" + request.match_info["run_id"])
        body = json.dumps({name.decode(): value.decode() for name, value in fields.items()})
        return web.Response(text=body, content_type="application/json")

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        sockets.append(socket)
        async for _ in socket:
            pass
        sockets.remove(socket)
        return socket

    async def tell(request: web.Request) -> web.Response:
        text = await request.text()
        for socket in sockets:
            await socket.send_str(text)
        return web.Response()

    app = web.Application()
    app.router.add_get("/ready", ready)
    app.router.add_get("/looked/{run_id}", looked)
    app.router.add_get("/ws", connect)
    app.router.add_post("/tell", tell)
    return app


async def _main(url: str) -> None:
    runner = web.AppRunner(make_app(Redis.from_url(url, protocol=2)), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
