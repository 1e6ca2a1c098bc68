"""Objects in a folder, S3, GCS or Azure, through obstore: the only place that imports it.

A URL decides. What is written is there, whole, when `put` returns: in a folder it is on the disk by then.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from runstore.core.errors import InvalidRequest, StoreUnavailable

T = TypeVar("T")
_NAMES_A_READ: Final = 1000
_DELETES_AT_ONCE: Final = 500
_CLOUDS: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
_RETRIES: Final = 3
_MOST_KNOWN: Final = 100_000
_HTTP: Final = "allow_http"


class Objects:
    """The objects under one URL. Each method may raise StoreUnavailable, within `timeout_s` for each request."""

    def __init__(self, store: Any, *, folder: Path | None, timeout_s: float) -> None:
        import obstore

        self._obstore: Any = obstore
        self._store = store
        self._folder = folder
        self._timeout_s = timeout_s
        self._on_disk: set[Path] = set()
        self.requests = 0
        self.failures = 0

    @classmethod
    def open(cls, url: str, *, timeout_s: float = 30.0, options: Mapping[str, str] | None = None) -> "Objects":
        """Open the objects under a URL; nothing is asked yet. `options` are passed on to the object store.

        Raises: InvalidRequest where the URL cannot be one, or the extra `archive` is not installed.
        """
        try:
            from obstore.exceptions import BaseError
            from obstore.store import LocalStore, from_url
        except ImportError:
            raise InvalidRequest("the archive needs obstore: pip install 'runstore[archive]'") from None
        parts = urlsplit(url)
        if parts.scheme not in _CLOUDS:
            if parts.scheme not in {"", "file"} or parts.netloc not in {"", "localhost"} or not parts.path:
                raise InvalidRequest(f"{url!r} is no place for an archive: give a folder, s3://…, gs://… or az://…")
            folder = Path(unquote(parts.path) if parts.scheme else url).absolute()
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise InvalidRequest(f"the archive's folder {folder} cannot be made: {error.strerror}") from None
            return cls(LocalStore(prefix=str(folder), mkdir=True), folder=folder, timeout_s=timeout_s)
        told = dict(options or {})
        limit = timedelta(seconds=timeout_s)
        http: Any = {"timeout": limit, "connect_timeout": limit}
        if told.pop(_HTTP, "").lower() in {"1", "true"}:
            http[_HTTP] = True
        backoff = {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=1), "base": 2}
        retries: Any = {"max_retries": _RETRIES, "retry_timeout": limit, "backoff": backoff}
        config: Any = told or None
        try:
            store = from_url(url, config=config, client_options=http, retry_config=retries)
        except (BaseError, ValueError) as error:
            raise InvalidRequest(f"{url!r} cannot be opened as an archive: {_first_line(error)}") from None
        return cls(store, folder=None, timeout_s=timeout_s)

    async def put(self, name: str, body: bytes) -> None:
        """Write an object, in place of one by that name."""
        await self._ask(self._obstore.put_async(self._store, name, body))
        if self._folder is not None:
            try:
                await asyncio.to_thread(_to_disk, self._folder, name, self._on_disk)
            except OSError as error:
                raise self._failed(error) from error

    async def get(self, name: str) -> bytes | None:
        """Read an object; None where there is none."""
        return await self._read(name, None)

    async def range(self, name: str, start: int, stop: int) -> bytes | None:
        """Read bytes of an object, fewer where it has no more; None where there is none."""
        return await self._read(name, (start, stop))

    async def has(self, name: str) -> bool:
        """Whether there is an object by that name."""
        try:
            await self._ask(self._obstore.head_async(self._store, name))
        except FileNotFoundError:
            return False
        return True

    async def names(self, folder: str, *, after: str | None = None) -> AsyncIterator[str]:
        """Name the objects in a folder and the folders in it, in order, those after a name."""
        stream = self._obstore.list(self._store, folder, offset=after, chunk_size=_NAMES_A_READ)
        held: list[str] = []
        while chunk := await self._chunk(stream):
            if self._folder is not None:
                held += [found["path"] for found in chunk]  # a folder tells its files in no order
                continue
            for found in chunk:
                yield found["path"]
        for name in sorted(held):
            yield name

    async def folders(self, folder: str) -> list[str]:
        """Name the folders in a folder, in order."""
        found = await self._ask(self._obstore.list_with_delimiter_async(self._store, folder))
        return sorted(found["common_prefixes"])

    async def delete(self, names: Iterable[str]) -> None:
        """Delete objects; it is no error where one is not there."""
        doomed = list(names)
        for begin in range(0, len(doomed), _DELETES_AT_ONCE):
            part = doomed[begin : begin + _DELETES_AT_ONCE]
            if self._folder is None:
                await self._ask(self._obstore.delete_async(self._store, part))
                continue
            try:
                await asyncio.to_thread(_unlink, self._folder, part, self._on_disk)
            except OSError as error:
                raise self._failed(error) from error

    async def _chunk(self, stream: Any) -> Any:
        try:
            return await self._ask(stream.__anext__())
        except (StopAsyncIteration, FileNotFoundError):
            return None

    async def _read(self, name: str, part: tuple[int, int] | None) -> bytes | None:
        async def read() -> bytes:
            answer = await self._obstore.get_async(self._store, name, options={"range": part} if part else None)
            return bytes(await answer.bytes_async())

        try:
            return await self._ask(read())
        except FileNotFoundError:
            return None

    async def _ask(self, request: Awaitable[T]) -> T:
        """Wait for an answer. Raises: FileNotFoundError; StoreUnavailable."""
        self.requests += 1
        try:
            async with asyncio.timeout(self._timeout_s + 1):
                return await request
        except FileNotFoundError:
            raise
        except (self._obstore.exceptions.BaseError, OSError, TimeoutError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreUnavailable:
        self.failures += 1
        return StoreUnavailable(f"the archive did not do as asked: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _to_disk(folder: Path, name: str, known: set[Path]) -> None:
    """Let a file, and the folders that name it, be on the disk: a power cut must not take what Redis lets go of.

    `known` are folders that are.
    """
    path = folder / name
    _sync(path)
    _sync(path.parent)
    for above in path.parents:
        if above == folder or above in known:
            break
        _sync(above.parent)
        if len(known) > _MOST_KNOWN:
            known.clear()
        known.add(above)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unlink(folder: Path, names: list[str], known: set[Path]) -> None:
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        for above in path.parents:
            if above == folder:
                break
            known.discard(above)
            try:
                above.rmdir()
            except OSError:
                break  # there is more in it
