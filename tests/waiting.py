"""Wait for what sets no signal, looking again and again."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def happens(holds: Callable[[], bool | Awaitable[bool]], within_s: float = 20) -> None:
    """Wait until a condition holds.

    Raises: TimeoutError.
    """
    async with asyncio.timeout(within_s):
        while not (await found if inspect.isawaitable(found := holds()) else found):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


def holds_soon(holds: Callable[[], bool], within_s: float = 20) -> None:
    """Wait until a condition holds, where there is no event loop.

    Raises: TimeoutError.
    """
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(0.02)
