"""The settings of the archive."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from runstore.adapters.objects import Objects
from runstore.core.errors import InvalidRequest

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
FOLDER: Final = ".runstore/archive"


class ArchiveConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[archive]`: where ended runs go, and when. The same for projectors, gateways and `runstore archive`."""

    url: str | None = None
    """A folder, `s3://bucket/path`, `gs://bucket/path` or `az://container/path`. Unset: the folder `.runstore/archive`
    where `retention_s` or `memory` is set; else there is no archive."""

    options: Mapping[str, str] = {}
    """What the object store is told besides, in obstore's words (`endpoint`, `region`, `allow_http`). Unset: what the
    environment says (`AWS_…`, `GOOGLE_…`, `AZURE_…`). Credentials belong into the environment."""

    retention_s: Annotated[float, Meta(ge=0)] | None = None
    """Seconds after its end when a run leaves Redis. Unset: it stays, unless `memory` asks for room."""

    memory: str | None = None
    """How much memory Redis may use, such as `2GB`, before ended runs leave, those created first before others.
    Unset: as much as it likes."""

    every_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds between two turns. Each turn makes one object of the index for every project and day that it moves."""

    batch_runs: Annotated[int, Meta(ge=1, le=20_000)] = 1_000
    """Runs that are moved together."""

    youngest_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds after its end for which no run leaves, whatever `memory` says."""

    restored_s: Annotated[float, Meta(ge=0)] = 7 * 24 * 3600.0
    """Seconds for which a run that was brought back stays in Redis at least."""

    at_once: Annotated[int, Meta(ge=1, le=256)] = 16
    """Requests to the object store at one time."""

    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30.0
    """Seconds that one request to the object store may take, its repeats included."""

    cache_bytes: Annotated[int, Meta(ge=0)] = 16 * 1024 * 1024
    """Bytes of heads of archived runs that a gateway keeps."""

    @property
    def is_on(self) -> bool:
        """Whether there is an archive."""
        return self.url is not None or self.moves_by_itself

    @property
    def moves_by_itself(self) -> bool:
        """Whether runs are to leave without being told."""
        return self.retention_s is not None or self.memory is not None

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes. Raises: InvalidRequest."""
        return parse_size(self.memory) if self.memory is not None else None

    def objects(self) -> Objects:
        """Open the object store. Raises: InvalidRequest."""
        return Objects.open(self.url or FOLDER, timeout_s=self.timeout_s, options=self.options)

    def beside(self, data_dir: Path | None) -> "ArchiveConfig":
        """Return the settings with the archive in a data folder, where none is named and there is to be one."""
        if data_dir is None or not self.is_on or self.url is not None:
            return self
        return msgspec.structs.replace(self, url=str(data_dir.absolute() / Path(FOLDER).name))

    def check(self) -> "ArchiveConfig":
        """Return the settings if they can be. Raises: InvalidRequest."""
        if self.memory_bytes == 0:
            raise InvalidRequest("memory = 0 leaves no room for anything: give a size such as 2GB")
        return self


def parse_size(text: str) -> int:
    """Read a size such as `2GB` (10⁹) or `2GiB` (2³⁰). Raises: InvalidRequest."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is no size: give a number with KB, MB, GB or TB (or KiB …), such as 2GB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
