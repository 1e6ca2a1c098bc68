"""The token of a `dev`: given or made once, let in, and let in again where somebody emptied the store."""

import asyncio
import logging
import os
import secrets
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.principal import Scope
from runstore.core.token import COMBINATIONS, check_fixed_token, hash_token, is_token, make_token
from runstore.engine import folder as data_folder
from runstore.ports import TokenRecord, Tokens

_KEPT_TOKEN: Final = "token"  # noqa: S105 - the name of a file
_LOOK_EVERY_S: Final = 0.5
_LOG: Final = logging.getLogger("runstore.dev")


def token_of(folder: Path, told: str | None) -> str:
    """Return the token that was told, else the one kept in the folder, made where there is none.

    Raises: InvalidRequest where it is too weak.
    """
    if told is not None:
        return check_fixed_token(told)
    path = folder / _KEPT_TOKEN
    with data_folder.usable(folder):
        try:
            kept = path.read_text("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            kept = ""
        if not is_token(kept):
            kept = make_token(secrets.randbelow(COMBINATIONS))
            data_folder.write_private(path, kept.encode() + b"\n")
        path.chmod(0o600)
    return kept


class Admission:
    """A service that keeps an admin token let in, for as long as nobody revokes it."""

    def __init__(self, store: RedisStore, token: str, folder: Path) -> None:
        self._store = store
        self._token = token
        self._folder = folder
        self._store_id: bytes | None = None
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Let the token in. Raises: StoreUnavailable."""
        await self.turn()
        self._loop = asyncio.create_task(self._watch(), name="dev-admission")

    async def stop(self) -> None:
        """Look after it no longer; what is let in stays so."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop

    async def wait(self) -> None:
        """Return after `stop`; raise what the loop died of."""
        if self._loop is not None:
            await asyncio.wait([self._loop])
            if not self._loop.cancelled():
                self._loop.result()

    async def turn(self) -> None:
        """Let the token in where the store is another than at the last look. Raises: StoreUnavailable."""
        store_id = await self._store.feed.store_id()
        if store_id is None or store_id != self._store_id:
            await _admit(self._store.tokens, self._token, self._folder)
            self._store_id = store_id

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.turn()
            except StoreUnavailable as error:
                _LOG.info("admission_not_looked_after", extra={"reason": error.detail})


async def _admit(tokens: Tokens, token: str, folder: Path) -> None:
    """Let the token in, under a name of this folder's own, in place of one that was used before."""
    record = TokenRecord(
        name=_token_name(folder),
        hash=hash_token(token),
        scopes=(Scope.ADMIN,),
        projects=None,
        created_at_s=int(time.time()),
    )
    known = {kept.name: kept for kept in await tokens.list_tokens()}
    if record.name in known and known[record.name].hash != record.hash:
        await tokens.revoke(record.name)
    await tokens.put(record)


def _token_name(folder: Path) -> str:
    return f"dev-{sha256(os.fsencode(folder.absolute())).hexdigest()[:8]}"
