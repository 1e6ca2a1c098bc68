"""Keeps the scripts of those who may send none known to the servers, whatever becomes of these."""

import asyncio
from logging import getLogger
from typing import Final

from runstore.adapters.connection import NOT_LOADED_S
from runstore.adapters.scripts import load_scripts
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.lifecycle import OneTask

_log = getLogger("runstore.scripts")
LOOK_EVERY_S: Final = NOT_LOADED_S / 4


class Loading(OneTask):
    """Load what is missing at start, and look again ever after; beside each projector."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def start(self) -> None:
        """Load what is missing. Raises: StoreUnavailable."""
        await self.turn()
        self._begin(self._forever(), "runstore-scripts")

    async def turn(self) -> int:
        """Load what is missing, and return how many scripts it were. Raises: StoreUnavailable."""
        return await load_scripts(self._store.client)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if loaded := await self.turn():
                    _log.warning("scripts_loaded", extra={"scripts": loaded})
            except StoreUnavailable as error:
                _log.error("loading_failed", extra={"reason": error.detail})
