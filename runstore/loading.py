"""Keeps the scripts of those who may send none known to the servers, whatever becomes of these."""

import asyncio
from logging import getLogger
from typing import Final, Self

from runstore.adapters.connection import NOT_LOADED_S
from runstore.adapters.scripts import load_scripts
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable

_log = getLogger("runstore.scripts")
LOOK_EVERY_S: Final = NOT_LOADED_S / 4


class Loading:
    """Load what is missing at start, and look again ever after; beside each projector."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is missing. Raises: StoreUnavailable."""
        await self.turn()
        self._task = asyncio.create_task(self._forever(), name="runstore-scripts")

    async def turn(self) -> int:
        """Load what is missing, and return how many scripts it were. Raises: StoreUnavailable."""
        return await load_scripts(self._store.client)

    async def wait(self) -> None:
        """Return when it was stopped. Raises: what ended it, where it was not stopped."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def stop(self) -> None:
        """Stop; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if loaded := await self.turn():
                    _log.warning("scripts_loaded", extra={"scripts": loaded})
            except StoreUnavailable as error:
                _log.error("loading_failed", extra={"reason": error.detail})
