"""Looks at something that is kept elsewhere: those who want one at the same time share it, and nobody makes many."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

_AT_MOST_EVERY_S: Final = 0.2


class Looks:
    """Looks, each a call of `look`, one at a time.

    A look goes on when its caller hangs up, for others may wait for it; what it raises, all of them raise.
    """

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._looking: asyncio.Task[None] | None = None
        self._began_at = float("-inf")
        self._seen_at = float("-inf")
        self._succeeded_at = float("-inf")

    @property
    def age_s(self) -> float:
        """How long ago the last look that succeeded had ended; infinite before the first."""
        return time.monotonic() - self._succeeded_at

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way."""
        # one that is over may not have been told so yet, and waiting for it would let nothing else run
        return self._looking is not None and not self._looking.done()

    async def look(self) -> None:
        """Look now, or share the look that is under way.

        Raises: as the look.
        """
        if self._looking is None or not self.is_looking:
            self._began_at = time.monotonic()
            self._looking = asyncio.create_task(self._once())
            self._looking.add_done_callback(_retrieve)
        await asyncio.shield(self._looking)

    async def look_after(self, now: float) -> None:
        """Let a look that succeeds begin after a moment of `time.monotonic`.

        Many who ask together cost a few looks a second.

        Raises: as the look.
        """
        while self._seen_at <= now:
            pause_s = self._began_at + _AT_MOST_EVERY_S - time.monotonic()
            if not self.is_looking and pause_s > 0:
                await asyncio.sleep(pause_s)
            else:
                await self.look()

    async def _once(self) -> None:
        began_at = self._began_at
        await self._look()
        self._seen_at, self._succeeded_at = began_at, time.monotonic()


def _retrieve(task: asyncio.Task[None]) -> None:
    # whoever asked raises it; where all have hung up, nobody needs to hear of it
    if not task.cancelled():
        task.exception()
