"""The archive of a process, where its settings name one."""

from typing import TYPE_CHECKING

from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.config import ArchiveConfig

if TYPE_CHECKING:
    from runstore.archive.archiver import Archiver
    from runstore.archive.reading import ArchivedStore


def open_archive(config: ArchiveConfig) -> Archive | None:
    """Open the archive; None where there is to be none. Raises: InvalidRequest."""
    return Archive(config.check().objects(), config) if config.is_on else None


def with_archive(store: RedisStore, archive: Archive | None) -> "RedisStore | ArchivedStore":
    """Return what a gateway reads: the store, and its archive where there is one."""
    if archive is None:
        return store
    from runstore.archive.reading import ArchivedStore

    return ArchivedStore(store, archive)


def archivers(store: RedisStore, archive: Archive | None) -> "list[Archiver]":
    """Return the service that moves runs, where the settings ask for one."""
    if archive is None or not archive.config.moves_by_itself:
        return []
    from runstore.archive.archiver import Archiver

    return [Archiver(store, archive)]
