"""What the feed says about places, asked once for all who ask at about one time.

When a gateway is lost, all of its clients come to the next one with a few places among them: to ask for each client
would cost the store a crowd of questions with the same few answers.
"""

import asyncio
from collections.abc import Awaitable, Callable

from runstore.core.cursor import FeedSight, Place


class Sights:
    """Looks at places, each look shared by all who ask within `fresh_s` of its beginning.

    An answer may be older than its question by so much. What is done to the store after it is noticed by whoever
    follows the feed, as it is when the answer is on its way.
    """

    def __init__(self, see: Callable[[Place], Awaitable[FeedSight]], fresh_s: float) -> None:
        self._see = see
        self._fresh_s = fresh_s
        self._looks: dict[Place, asyncio.Task[FeedSight]] = {}

    async def see(self, place: Place) -> FeedSight:
        """See what the feed says about a place. Raises: StoreUnavailable."""
        look = self._looks.get(place)
        if look is None:
            loop = asyncio.get_running_loop()
            look = self._looks[place] = loop.create_task(self._look(place))
            look.add_done_callback(_retrieve)
            loop.call_later(self._fresh_s, self._forget, place, look)
        return await asyncio.shield(look)

    def forget_all(self) -> None:
        """Let nobody who asks from now on share a look that has begun."""
        self._looks.clear()

    async def _look(self, place: Place) -> FeedSight:
        return await self._see(place)

    def _forget(self, place: Place, look: "asyncio.Task[FeedSight]") -> None:
        if self._looks.get(place) is look:
            del self._looks[place]


def _retrieve(look: "asyncio.Task[FeedSight]") -> None:
    # whoever asked raises it; where all have hung up, nobody needs to hear of it
    if not look.cancelled():
        look.exception()
