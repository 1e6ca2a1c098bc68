"""What can go wrong with the engine, each named for its condition."""

from pathlib import Path
from typing import ClassVar

from runstore.core.errors import RunstoreError


class EngineError(RunstoreError):
    """The engine cannot do what was asked."""

    retryable: ClassVar[bool] = False


class DataFolderInUse(EngineError):
    """Another process owns the data folder."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        owner = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{owner} already runs an engine on the data folder {folder}; stop it or use another")
        self.folder = folder
        self.pid = pid


class DataFolderUnusable(EngineError):
    """The data folder cannot be made, read or written."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"the data folder {folder} cannot be used: {reason}")
        self.folder = folder


class NoServer(EngineError):
    """No server of the kind asked for is on this machine."""


class ServerFailed(EngineError):
    """The server ended, or stayed silent, before it was ready; the message ends with the last lines of its log."""

    def __init__(self, reason: str, log_tail: str) -> None:
        super().__init__(f"{reason}; the end of its log:\n{log_tail}" if log_tail else f"{reason}; its log is empty")
        self.log_tail = log_tail


class PortTaken(ServerFailed):
    """Another process took the port between our choice and the server's bind."""

    retryable: ClassVar[bool] = True
