"""Run ids and their prefixes: what a caller may type, and its canonical form."""

import re
from typing import Final, NewType
from uuid import UUID, uuid5

from runstore.core.errors import InvalidRequest, InvalidRunId

RunId = NewType("RunId", str)
"""A UUID, lower case, with dashes."""

_HEX: Final = re.compile(r"[0-9a-f]{4,32}")
_DASHES: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_NAMESPACE: Final = UUID("6f1c0f4e-6d2b-5d3e-9c1a-2b7f3a9d8e10")
_DIGITS: Final = 32


def parse_prefix(text: str) -> str:
    """Read what a caller typed into 4 to 32 lower-case hex digits without dashes.

    Raises: InvalidRunId, saying what a run id or prefix looks like.
    """
    digits = text.strip().lower().replace("-", "") if len(text) <= 2 * _DIGITS else ""
    if not _HEX.fullmatch(digits):
        raise InvalidRunId(
            f"{text[:60]!r} is no run id: give a UUID or its first hex digits, at least 4 (dashes optional)"
        )
    return digits


def parse_run_id(text: str) -> RunId:
    """Read a whole run id in any spelling of its UUID.

    Raises: InvalidRunId, also for a prefix.
    """
    if _DASHES.fullmatch(text):
        return RunId(text)
    digits = parse_prefix(text)
    if len(digits) != _DIGITS:
        raise InvalidRunId(f"{text[:60]!r} is no whole run id: give a UUID of 32 hex digits (dashes optional)")
    return RunId(str(UUID(hex=digits)))


def to_bytes(run_id: RunId) -> bytes:
    """Pack a run id into its 16 bytes."""
    return bytes.fromhex(run_id.replace("-", ""))


def from_bytes(packed: bytes) -> RunId:
    """Unpack a run id from its 16 bytes."""
    return RunId(str(UUID(bytes=packed)))


def derive_run_id(*parts: str) -> RunId:
    """Derive a run id from names (UUIDv5): the same parts always give the same id.

    Used for an `Idempotency-Key` (caller, project, key) and for a framework's task id (project, task id).
    """
    return RunId(str(uuid5(_NAMESPACE, "\x1f".join(parts))))


def check_project_name(name: str) -> str:
    """Return the name if it can be a project's.

    Raises: InvalidRequest, saying which characters a name may have.
    """
    if not _PROJECT.fullmatch(name):
        raise InvalidRequest(
            f"{name[:60]!r} is no project name: 1 to 100 letters, digits, '.', '_', '-' or '/', "
            "the first a letter or digit"
        )
    return name
