"""Where spools lie, what waits in them, and those whose processes have ended.

Each store has a folder of its own, named by its address without the credentials, so that what was kept for one is never
sent to another, and a changed password keeps nothing from being sent.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

import msgspec

from runstore.publish.config import PublisherConfig
from runstore.publish.spool import Spool
from runstore.publish.spool_file import SUFFIX, head_of, sweep
from runstore.wire.spool import MOST_LABEL_BYTES, read_records

_LOG: Final = logging.getLogger("runstore.publish")


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in one spool file. `held` says whether a living process has it."""

    path: str
    label: str
    events: int
    bytes: int
    held: bool


def spool_root(config: PublisherConfig) -> Path:
    """Return the folder that holds the spools for every store; a user without a home has one beneath /var/tmp."""
    told = config.spool_dir or os.environ.get("RUNSTORE_SPOOL_DIR")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = os.path.expanduser(told or os.path.join(state, "runstore", "spool"))
    if folder.startswith("~"):
        folder = f"/var/tmp/runstore-{os.geteuid()}/spool"  # noqa: S108 - others may write there, but we adopt only ours
    return Path(folder).absolute()  # the program may go elsewhere later


def spool_for(redis_url: str, config: PublisherConfig) -> Spool:
    """Make this process's spool for a store; nothing is written yet."""
    return Spool(spool_folder(redis_url, config), _label(redis_url), config.spool_bytes)


def spool_folder(redis_url: str, config: PublisherConfig) -> Path:
    """Return the folder that holds the spools for one store."""
    return spool_root(config) / sha256(_label(redis_url).encode()).hexdigest()[:16]


def waiting(folder: Path) -> Iterator[Waiting]:
    """Say what waits in a folder and those beneath it; nothing is changed."""
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        with suppress(OSError), open(path, "rb", opener=_open_at_once) as file:
            head = head_of(file.fileno())
            size = os.fstat(file.fileno()).st_size
            if head is None or size <= head.delivered:
                continue
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                sizes = [len(span.event) for span in read_records(data, head.delivered)]
            if sizes:
                held = _is_held(file.fileno())
                yield Waiting(path=str(path), label=head.label, events=len(sizes), bytes=sum(sizes), held=held)


def abandoned(folder: Path) -> Iterator[Spool]:
    """Take over, one by one, the files in a folder whose processes have ended."""
    with suppress(OSError):
        sweep(folder)
    try:
        paths = sorted(folder.glob(f"*{SUFFIX}"))
    except OSError:
        return
    for path in paths:
        try:
            spool = Spool.adopt(path)
        except OSError as error:
            _LOG.error("spool_not_adopted", extra={"path": str(path), "reason": error.strerror})
            continue
        if spool is not None:
            yield spool


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # something else of that name might wait for its other end


def _label(redis_url: str) -> str:
    """Name a store by its address, without user and password."""
    from runstore.adapters.address import address_of

    label = address_of(redis_url) or "an address that cannot be read"
    return label.encode()[:MOST_LABEL_BYTES].decode("utf-8", "ignore")
