"""Clean-up that a cancellation must not cut short."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def complete(work: Coroutine[Any, Any, None]) -> None:
    """Do the work to its end, and only then let a cancellation that came meanwhile go on."""
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancellation = error
    task.result()
    if cancellation is not None:
        raise cancellation
