"""A Redis of the test's own at one address, and its lives: the same again, an older one, an empty one, another one."""

import asyncio
import shutil
from hashlib import sha256
from pathlib import Path
from signal import SIGKILL
from typing import Self

from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.ports import TokenRecord
from tests.publish.site import Site

_DATA = "appendonlydir"
TOKEN = "a-token-for-the-tests-of-faults"


class Lives(Site):
    """A server that dies and comes back with what the test gives it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder
        self._kept = folder.with_name("kept")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def die(self) -> None:
        """Kill it; it keeps all that it acknowledged."""
        self.send(SIGKILL)
        self.stop()

    def remember(self) -> None:
        """Keep a copy of its present life."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self._folder / _DATA, self._kept)

    def come_back_older(self) -> None:
        """Begin again from the copy: what was acknowledged since is gone."""
        self.come_back_empty(start=False)
        shutil.copytree(self._kept, self._folder / _DATA)
        self.start()

    def come_back_empty(self, *, start: bool = True) -> None:
        """Begin again with nothing."""
        self.stop()
        shutil.rmtree(self._folder / _DATA)
        if start:
            self.start()

    async def come_back_as(self, come_back: str) -> None:
        """Begin another life: `older`, or `empty` with nothing but the token."""
        self.die()
        if come_back == "older":
            await asyncio.to_thread(self.come_back_older)
            return
        await asyncio.to_thread(self.come_back_empty)
        await self.let_in()

    async def let_in(self) -> None:
        """Store the token of the tests."""
        await let_in(self.url)


async def let_in(url: str) -> None:
    """Store the token of the tests in the store at an address."""
    async with RedisStore.open(url) as store:
        digest = sha256(TOKEN.encode()).hexdigest()
        record = TokenRecord(name="t", hash=digest, scopes=(Scope.ADMIN,), projects=None, created_at_s=0)
        await store.tokens.put(record)
