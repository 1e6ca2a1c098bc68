"""A finding: one thing that a doctor looked at, whether it is well, and what to do where it is not."""

from collections.abc import Iterator

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    is_well: bool
    sentence: str


def well(name: str, sentence: str) -> Finding:
    """Say that something is well."""
    return Finding(name=name, is_well=True, sentence=sentence)


def ill(name: str, sentence: str) -> Finding:
    """Say that something is not."""
    return Finding(name=name, is_well=False, sentence=sentence)


def size(count: int) -> str:
    """Write a number of bytes for people."""
    return next(_steps(float(count)))


def _steps(size: float) -> Iterator[str]:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            yield f"{size:.0f} {unit}"
        size /= 1024
    yield f"{size:.1f} TiB"
