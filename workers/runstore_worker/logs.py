"""The logs of a run on their way to those who watch: sent a few times a second, bounded, never in the model's way.

What a model prints faster than that is left out in the middle, with a word about it; its own log keeps the end whole.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from runstore import StoreUnavailable
from runstore_worker.complete import complete

PIECE_BYTES = 16 * 1024
Append = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]

log = logging.getLogger(__name__)


class LogSender:
    """Sends what it is offered, by a task of its own that `run` is."""

    def __init__(self, append: Append, *, every_s: float, most_bytes: int) -> None:
        self._append = append
        self._every_s = every_s
        self._most_bytes = most_bytes
        self._pieces: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._left_out = 0

    async def offer(self, stream: str, chunk: bytes) -> None:
        """Take a chunk; what is too much pushes the oldest out."""
        if self._pieces and self._pieces[-1][0] == stream and len(self._pieces[-1][1]) + len(chunk) <= PIECE_BYTES:
            before = self._pieces.pop()[1]
            self._size -= len(before)
            chunk = before + chunk
        for begin in range(0, len(chunk), PIECE_BYTES):
            piece = chunk[begin : begin + PIECE_BYTES]
            self._pieces.append((stream, piece))
            self._size += len(piece)
        while self._size > self._most_bytes:
            dropped = self._pieces.popleft()[1]
            self._size -= len(dropped)
            self._left_out += len(dropped)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await complete(self.flush())  # what it has taken is nowhere else

    async def flush(self) -> None:
        """Send what there is; while the store is away it is kept, within the bound."""
        if not self._pieces:
            return
        pieces, left_out = list(self._pieces), self._left_out
        self._pieces.clear()
        self._size = self._left_out = 0
        note = [("stderr", b"\n[%d bytes of the logs were left out here]\n" % left_out)] if left_out else []
        try:
            await self._append([*note, *pieces])
        except StoreUnavailable as error:
            log.warning("logs_put_off", extra={"reason": error.detail[:200]})
            later = list(self._pieces)
            self._pieces.clear()
            self._size, self._left_out = 0, self._left_out + left_out
            for stream, piece in (*pieces, *later):
                await self.offer(stream, piece)
