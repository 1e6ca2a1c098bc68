"""A pipe whose end of file says that everyone who held its other end has gone."""

import asyncio
import os
import select


def at_end(pipe: int, wait_s: float) -> bool:
    """Tell whether the pipe has something to say, waiting so long for it."""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    return bool(poller.poll(max(0.0, wait_s) * 1000))


async def until_end(pipe: int) -> None:
    """Return when the pipe has something to say; the caller may close it meanwhile."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    ours = os.dup(pipe)
    loop.add_reader(ours, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(ours)
        os.close(ours)
