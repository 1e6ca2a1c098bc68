"""The plain program: the same path with no guarantees. Run as `python -m runstore.bench.plain reader|door REDIS_URL`.

`reader` reads one events stream and writes each run and what is told in one pipeline; nothing proves its place, ends
once or is numbered. `door` sends what is told to every websocket, and asks nobody who they are.
"""

import sys
from typing import Any, Final

import msgspec
import uvloop
from aiohttp import web
from redis.asyncio import Redis

EVENTS: Final = "plain:events"
_TOLD: Final = "plain:told"
_AT_ONCE: Final = 256


class _Event(msgspec.Struct):
    run_id: str
    status: str
    project_name: str
    at: str | None = None
    commit_sha: str | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")


_DECODER: Final = msgspec.json.Decoder(_Event)
_ENCODER: Final = msgspec.json.Encoder()


async def read(redis: Any, *, until: int | None = None, last: bytes = b"0") -> None:
    """Read the log, write runs and tell: for ever, or until so many events were read."""
    count = 0
    while until is None or count < until:
        reply = await redis.xread({EVENTS: last}, count=_AT_ONCE, block=1000)
        if not reply:
            continue
        rows = reply[EVENTS.encode()] if isinstance(reply, dict) else reply[0][1]
        rows = rows[0] if isinstance(reply, dict) else rows
        pipe = redis.pipeline(transaction=False)
        for entry_id, fields in rows:
            event = _DECODER.decode(fields[b"event"])
            body = _ENCODER.encode(event)
            pipe.hset(f"plain:run:{event.run_id}", mapping={"status": event.status, "run": body})
            pipe.xadd(_TOLD, {"run": body}, maxlen=10_000, approximate=True)
            last = entry_id
        await pipe.execute()
        count += len(rows)


async def _door(redis: Any) -> None:
    sockets: set[web.WebSocketResponse] = set()

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        sockets.add(socket)
        try:
            async for _ in socket:
                pass
        finally:
            sockets.discard(socket)
        return socket

    app = web.Application()
    app.router.add_get("/ws", connect)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _say({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"})
    last: Any = "$"
    while True:
        reply = await redis.xread({_TOLD: last}, count=_AT_ONCE, block=1000)
        if not reply:
            continue
        rows = reply[_TOLD.encode()][0] if isinstance(reply, dict) else reply[0][1]
        for entry_id, fields in rows:
            text = fields[b"run"].decode()
            for socket in sockets:
                await socket.send_str(text)
            last = entry_id


def _say(ready: dict[str, Any]) -> None:
    sys.stdout.write(_ENCODER.encode(ready).decode() + "\n")
    sys.stdout.flush()


async def _main(role: str, url: str) -> None:
    redis: Any = Redis.from_url(url, protocol=2)
    if role == "door":
        await _door(redis)
    else:
        await redis.ping()
        _say({"ready": True})
        await read(redis)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:3]))
