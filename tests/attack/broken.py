"""The command line with something broken on purpose, so that the checks can be seen to fail: BROKEN_BY says what."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from runstore.cli import main
from runstore.gateway import app
from runstore.gateway.runs import list_runs
from runstore.projection import batch
from runstore_worker import held

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEPT: list[object] = []
ASKED = 0


async def error(_: web.Request) -> web.StreamResponse:
    """Break off."""
    raise RuntimeError("broken on purpose")


async def unknown(_: web.Request) -> web.StreamResponse:
    """Answer with a status that no document tells of."""
    return web.Response(status=418)


async def silence(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def leak(request: web.Request) -> web.StreamResponse:
    """Keep a megabyte and two files for each listing."""
    KEPT.append((b"x" * (1 << 20), os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)))
    return await list_runs(request)


async def die(request: web.Request) -> web.StreamResponse:
    """End the process at the fiftieth listing."""
    global ASKED  # noqa: PLW0603 - a program of its own
    ASKED += 1
    if ASKED == 50:
        os._exit(3)
    return await list_runs(request)


HANDLERS: dict[str, Handler] = {each.__name__: each for each in (error, unknown, silence, leak, die)}


def break_by(how: str) -> None:
    """Break one thing."""
    if how in HANDLERS:
        app.ROUTES = tuple(
            msgspec.structs.replace(route, handler=HANDLERS[how]) if route.handler is list_runs else route
            for route in app.ROUTES
        )
    elif how == "forget":
        batch._bury = lambda *_: None  # neither folded nor buried
    elif how == "spare":
        held.Held.__init__.__defaults__ = (held.Stdio(spare=True),)  # what outlives a run is left alone
    else:
        raise ValueError(f"BROKEN_BY={how} is no way to be broken")


if __name__ == "__main__":
    break_by(os.environ.pop("BROKEN_BY"))
    sys.exit(main())
