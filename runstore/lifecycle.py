"""Long-lived parts: started, held, waited for, stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from runstore.core.errors import RunstoreError


class ServiceEnded(RunstoreError):
    """A part that was to go on has ended without a word."""

    code = "service_ended"


class Service(Protocol):
    """What every long-lived part can do."""

    async def start(self) -> None:
        """Return once ready."""
        ...

    async def stop(self) -> None:
        """Return once stopped."""
        ...

    async def wait(self) -> None:
        """Return after `stop`; raise what it died of."""
        ...


@asynccontextmanager
async def started(service: Service) -> AsyncIterator[None]:
    """Hold a service for the length of an `async with`."""
    try:
        await service.start()
        yield
    finally:
        await service.stop()


async def until_any_ends(*services: Service) -> None:
    """Wait for as long as all services live. Raises: what one died of; ServiceEnded where one ended without a word."""
    waits = [asyncio.ensure_future(service.wait()) for service in services]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            wait.result()
        raise ServiceEnded("a service ended by itself; its log says more")
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
