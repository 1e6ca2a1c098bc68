"""What a model left in RUNSTORE_OUTPUTS, read as something that a stranger wrote.

The path may be a link to a secret, a pipe that never ends, or a gigabyte. All of that is a value, an `Unreadable` whose
reason ends the run as `failed`.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 62  # an event and its output are two levels around them, and 64 is the store's limit


class Unreadable(msgspec.Struct, frozen=True):
    """The outputs cannot be taken."""

    reason: str
    """A sentence for the run's `error_message`."""


def read_outputs(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any] | Unreadable:
    """Read the outputs; none written is none, and no mistake. Blocks for as long as so much JSON takes."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if error.errno == errno.ELOOP:  # O_NOFOLLOW's word for a link
            return Unreadable("RUNSTORE_OUTPUTS is no regular file")
        return Unreadable(f"RUNSTORE_OUTPUTS cannot be read: {error.strerror}")
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return Unreadable("RUNSTORE_OUTPUTS is no regular file")
        with open(file, "rb", closefd=False) as stream:
            raw = stream.read(max_bytes + 1)
    finally:
        os.close(file)
    if len(raw) > max_bytes:
        return Unreadable(f"RUNSTORE_OUTPUTS is larger than {max_bytes} bytes")
    return _parse(raw)


def text(raw: bytes, *, cut: bool = False) -> str:
    """Decode a log; with `cut`, its beginning may lie in the middle of a character, and that piece is left out."""
    if cut:
        raw = raw[next((i for i, byte in enumerate(raw[:3]) if byte & 0xC0 != 0x80), 3) :]
    return raw.decode("utf-8", errors="replace")


def _parse(raw: bytes) -> dict[str, Any] | Unreadable:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        return Unreadable(f"RUNSTORE_OUTPUTS is no valid JSON: {error}")
    except RecursionError:
        return Unreadable(f"RUNSTORE_OUTPUTS is nested deeper than {MAX_DEPTH} levels")
    except ValueError as error:  # bytes that are no UTF-8, half of a surrogate pair
        return Unreadable(f"RUNSTORE_OUTPUTS is no valid JSON: {error}")
    if not isinstance(value, dict):
        return Unreadable("RUNSTORE_OUTPUTS must be a JSON object, a name for each output")
    if _is_deeper(value, MAX_DEPTH):
        return Unreadable(f"RUNSTORE_OUTPUTS is nested deeper than {MAX_DEPTH} levels")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Walk floor by floor, without recursion; an object or array is one level."""
    floor = [value]
    for _ in range(depth):
        inner = (v.values() if isinstance(v, dict) else v for v in floor)
        floor = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not floor:
            return False
    return True
