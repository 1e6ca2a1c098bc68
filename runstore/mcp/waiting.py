"""What a client that waits is told meanwhile: how the run stands, at each change and every few seconds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Final

from runstore.mcp.port import Note

BEAT_S: Final = 5.0
"""Seconds after which a client hears that the run still stands as it stood: silence looks like a lost call."""

Send = Callable[[float, float, str], Awaitable[None]]
"""Sends one notification: seconds waited, seconds that are waited at most, how the run stands."""


@asynccontextmanager
async def telling(send: Send, waits_s: float) -> AsyncIterator[Note]:
    """Tell for the length of a `with` what is noted. Where nothing is waited for, nothing is told."""
    if not waits_s:
        yield _tell_nobody
        return
    teller = _Teller(send, waits_s)
    task = asyncio.create_task(teller.tell(), name="mcp-progress")
    try:
        yield teller.note
    finally:
        task.cancel()
        await asyncio.wait([task])


def _tell_nobody(_: str) -> None:
    pass


class _Teller:
    def __init__(self, send: Send, waits_s: float) -> None:
        self._send = send
        self._waits_s = waits_s
        self._said = "waiting for the run"
        self._news = asyncio.Event()

    def note(self, said: str) -> None:
        if said != self._said:
            self._said = said
            self._news.set()

    async def tell(self) -> None:
        began_s, told_s = monotonic(), 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._news.wait()
            self._news.clear()
            # the protocol wants each progress above the one before
            told_s = max(round(monotonic() - began_s, 3), told_s + 0.001)
            if told_s <= self._waits_s:
                await self._send(told_s, self._waits_s, self._said)
