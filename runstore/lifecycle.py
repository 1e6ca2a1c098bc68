"""Long-lived parts: started, held, waited for, stopped."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, Self

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


class OneTask(ABC):
    """A service that is one task: `start` gets ready and begins it."""

    _task: asyncio.Task[None] | None = None

    @abstractmethod
    async def start(self) -> None:
        """Return once ready, the task begun."""

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._task = asyncio.create_task(work, name=name)

    async def stop(self) -> None:
        """Stop; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def wait(self) -> None:
        """Return when it was stopped. Raises: what ended it, where it was not stopped."""
        if self._task is not None:
            await asyncio.wait({self._task})
            with suppress(asyncio.CancelledError):
                self._task.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


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
