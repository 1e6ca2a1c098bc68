"""What an engine may be told."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec


class EngineKind(StrEnum):
    """Where the server comes from, in the order in which they are tried."""

    EXTERNAL = "external"
    INSTALLED = "installed"
    WHEEL = "wheel"
    MEMORY = "memory"


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One engine on one data folder."""

    data_dir: Path = Path(".runstore")
    """Folder for the data, the log, the lock and the password. Made with mode 0700 where it is missing."""

    redis_url: str | None = None
    """A server that somebody else runs: nothing is started and the data folder stays untouched. Unset: start one."""

    kind: EngineKind | None = None
    """Take this kind of server or fail. Unset: the first of `installed`, `wheel` and `memory` that is there."""

    search_path: str | None = None
    """Folders to look for an installed server in, written as `PATH` is. Unset: `PATH` itself."""

    fsync: Literal["always", "everysec", "no"] = "everysec"
    """When the server forces its writes onto the disk: before each answer, once a second, or as the system likes."""

    start_timeout_s: float = 10.0
    """Seconds until the server must have answered for the first time."""

    load_timeout_s: float = 600.0
    """Seconds that a server which answers `LOADING` may take to read its data."""

    stop_timeout_s: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""

    lock_patience_s: float = 8.0
    """Seconds to wait for a folder whose owner has died but whose server has not gone yet.

    Keep it over `stop_timeout_s`. An owner that is alive is never waited for.
    """
