"""Wait for a Redis that is away when a service starts, as the service outlives its absence later."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from runstore.core.errors import StoreUnavailable
from runstore.lifecycle import Service

_T = TypeVar("_T")
_S = TypeVar("_S", bound=Service)
_LONGEST_S: Final = 2.0
_LOG: Final = logging.getLogger("runstore.cli")


@asynccontextmanager
async def began(make: Callable[[], _S]) -> AsyncIterator[_S]:
    """Hold a service for the length of an `async with`, begun when Redis is there. Raises: as `when_there`."""

    async def begin() -> _S:
        service = make()  # another one each time: what had half begun is of no more use
        try:
            await service.start()
        except BaseException:
            await service.stop()
            raise
        return service

    service = await when_there(begin)
    try:
        yield service
    finally:
        await service.stop()


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
