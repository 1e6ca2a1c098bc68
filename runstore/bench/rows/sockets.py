"""Memory of an idle subscribed websocket in the gateway's process."""

from runstore.bench.figures import Found
from runstore.bench.load import Counter, Listener, listen
from runstore.bench.stage import Process, Stage, new_id

TITLE = "memory per idle subscribed websocket"


async def measure(stage: Stage) -> Found:
    """Open sockets, each subscribed to a run of its own, and see what the process holds more."""
    found, size = Found(), stage.some(4_000, 400)
    ours: list[float] = []
    yardstick: list[float] = []
    async with stage.store() as store:
        token = await stage.token(store)
        for _ in range(stage.rounds):
            with stage.gateway() as gateway:
                ours.append(await _kib_each(gateway, "/v1/ws", size, token))
            with stage.process(stage.redis_url, module="runstore.bench.bare") as bare:
                yardstick.append(await _kib_each(bare, "/ws", size, None))
    found.ours(f"subscribed, {size} of them", "KiB a socket", ours)
    found.yardstick("bare aiohttp", "KiB a socket", yardstick)
    found.at_most(20.0, "KiB a socket", ours)
    return found


async def _kib_each(server: Process, path: str, size: int, token: str | None) -> float:
    counter, sockets = Counter(), list[Listener]()
    for place in range(size + size // 10):
        if place == size // 10:  # the first tenth is for what is made once
            began = server.rss_kib()
        socket = await listen(server.url, path, counter, token=token)
        if token is not None:
            heard = counter.frames + 1
            socket.send(b'{"type":"subscribe","id":"a","run_ids":["%s"]}' % new_id().encode())
            await counter.reach(heard)
        sockets.append(socket)
    each = (server.rss_kib() - began) / size
    for socket in sockets:
        socket.transport.abort()
    return each
