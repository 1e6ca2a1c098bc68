"""The last bytes of a stream, kept in a file that never grows past its limit (a ring).

A model may print a gigabyte. The end of a log is what people need, so the beginning is overwritten.
"""

import os
from pathlib import Path
from typing import Self

KEEP_BYTES = 64 * 1024 * 1024


class Tail:
    """A ring in a new file; the file belongs to this object until it is closed."""

    def __init__(self, path: Path, keep_bytes: int = KEEP_BYTES) -> None:
        """Raises: FileExistsError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._keep_bytes = keep_bytes
        self.total_bytes = 0

    @property
    def dropped_bytes(self) -> int:
        """How much of the beginning is gone."""
        return max(0, self.total_bytes - self._keep_bytes)

    def write(self, data: bytes) -> None:
        """Append; what is too much falls off at the beginning."""
        skipped = max(0, len(data) - self._keep_bytes)
        self.total_bytes += skipped
        rest = memoryview(data)[skipped:]
        while rest:
            place = self.total_bytes % self._keep_bytes
            written = os.pwrite(self._file, rest[: self._keep_bytes - place], place)
            self.total_bytes += written
            rest = rest[written:]

    def read(self, last_bytes: int | None = None) -> bytes:
        """Read what is kept, or only its last so many bytes."""
        kept = self.total_bytes - self.dropped_bytes
        wanted = kept if last_bytes is None else min(kept, last_bytes)
        start = (self.total_bytes - wanted) % self._keep_bytes
        first = min(wanted, self._keep_bytes - start)
        return self._read_at(start, first) + self._read_at(0, wanted - first)

    def close(self) -> None:
        """Close the file and leave it; may be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_at(self, place: int, size: int) -> bytes:
        parts = []
        while size and (part := os.pread(self._file, size, place)):
            parts.append(part)
            place += len(part)
            size -= len(part)
        return b"".join(parts)
