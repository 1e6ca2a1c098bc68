"""Wait for a Redis that is away when a service starts, as the service outlives its absence later."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from runstore.core.errors import StoreUnavailable

_T = TypeVar("_T")
_LONGEST_S: Final = 2.0
_LOG: Final = logging.getLogger("runstore.cli")


async def when_there(open_it: Callable[[], Awaitable[_T]]) -> _T:
    """Do what needs Redis once it is there; until then say now and then why it is not.

    Raises: what no time will mend, such as StoreUnavailable for a password that Redis does not take.
    """
    from runstore.adapters.connection import is_away
    from runstore.publish.trouble import Trouble

    trouble = Trouble()
    while True:
        try:
            return await open_it()
        except StoreUnavailable as error:
            if not is_away(error):
                raise
            trouble.tell(_LOG, "redis_awaited", error)
        longest_s = min(_LONGEST_S, 0.05 * 2 ** min(trouble.count, 10))
        await asyncio.sleep(random.uniform(longest_s / 2, longest_s))  # noqa: S311 - spreads load only
