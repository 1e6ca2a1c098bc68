"""Where the engine of a data folder answers, so that other processes on the machine can find it."""

import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from runstore.engine import folder as data_folder
from runstore.engine.config import EngineKind
from runstore.engine.ping import LOOPBACK, Answer, ask

_FILE = "engine.json"
_PROBE_S = 2.0


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One server on loopback. The file outlives the server, which likes to have its port back."""

    kind: EngineKind
    port: int
    password: str

    @property
    def redis_url(self) -> str:
        """The URL that any client takes: redis-cli 7.0 logs in as nobody where it names no user."""
        return f"redis://default:{self.password}@{LOOPBACK}:{self.port}/0"


def remember(folder: Path, address: Address) -> None:
    """Write the address for `locate` and for the next start.

    Raises: DataFolderUnusable.
    """
    with data_folder.usable(folder):
        data_folder.write_private(folder / _FILE, msgspec.json.encode(address) + b"\n")


def locate(data_dir: Path) -> str | None:
    """Return the URL of the engine that runs on the folder now, or None."""
    address = _recall(data_dir)
    if address is None:
        return None
    answer = ask(address.port, address.password, timeout_s=_PROBE_S)
    return address.redis_url if answer in {Answer.READY, Answer.LOADING} else None


def belongs(data_dir: Path, redis_url: str) -> bool:
    """Whether a URL is that of the folder's own engine, running or not, as one kept from an earlier start is."""
    address = _recall(data_dir)
    try:
        return address is not None and urlsplit(redis_url).password == address.password
    except ValueError:
        return False


def pick_port(folder: Path) -> int:
    """Return a port that is free at this moment, the last one if it can be had, so that kept URLs stay good."""
    last = _recall(folder)
    if last is not None:
        with suppress(OSError, OverflowError):
            return _bound(last.port)
    return _bound(0)


def _bound(port: int) -> int:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        chosen: int = sock.getsockname()[1]
        return chosen


def _recall(folder: Path) -> Address | None:
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Address)
    except (OSError, msgspec.DecodeError):
        return None
