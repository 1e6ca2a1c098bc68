"""A lock between processes that dies with its holder."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

LOOK_AGAIN_S = 0.02


@asynccontextmanager
async def file_lock(path: Path, timeout_s: float) -> AsyncIterator[None]:
    """Hold the file's lock; asked for again and again, since a thread that waits for it could not be cancelled.

    Raises: TimeoutError.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(timeout_s):
            while not _taken(file):  # noqa: ASYNC110  another process sets no event
                await asyncio.sleep(LOOK_AGAIN_S)
        yield
    finally:
        os.close(file)


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
