"""The history of a run: append-only lines of what was called, what came of it, and what was heard.

A call is two lines with the same `op`: `invoked`, then `ok`, `failed` or `unknown`. A time-out, a lost connection or
the death of the caller is unknown: the deed may have been done, or may still be. What is only heard (a push, a fault)
is one line. Times are CLOCK_MONOTONIC, one clock for all processes of the machine; a line is written before the call
is made, and after its answer is there, so that no call took place outside its two lines.
"""

import os
import time
from collections.abc import Iterator
from enum import StrEnum
from heapq import merge
from pathlib import Path
from typing import Any

import msgspec


class Outcome(StrEnum):
    """What is known of a call."""

    INVOKED = "invoked"
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"
    HEARD = "heard"


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A run as a list showed it."""

    run_id: str
    status: str
    created_at: str


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `do` names the deed; which of the other fields are set depends on it.

    Units: `at` nanoseconds of CLOCK_MONOTONIC. `op` is unique within `who`.
    """

    at: int
    who: str
    do: str
    outcome: Outcome
    op: int = 0
    run_id: str = ""
    status: str = ""
    project: str = ""
    event_id: str = ""
    spooled: bool = False
    after: str = ""
    runs: tuple[Seen, ...] = ()
    run_ids: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    is_whole: bool = False
    detail: str = ""


class History:
    """One process's part of the history. Lines survive the death of the process, though not the machine's."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._encode = msgspec.json.Encoder().encode
        # an op must not be one of an earlier life of the process
        self._op = time.monotonic_ns()

    def invoke(self, who: str, do: str, **fields: Any) -> int:
        """Say that a call is about to be made, and return its number."""
        self._op += 1
        self._write(Line(at=time.monotonic_ns(), who=who, do=do, outcome=Outcome.INVOKED, op=self._op, **fields))
        return self._op

    def end(self, who: str, do: str, op: int, outcome: Outcome, **fields: Any) -> None:
        """Say what came of a call."""
        self._write(Line(at=time.monotonic_ns(), who=who, do=do, outcome=outcome, op=op, **fields))

    def hear(self, who: str, do: str, **fields: Any) -> None:
        """Say what was heard, or done without an answer to wait for."""
        self._write(Line(at=time.monotonic_ns(), who=who, do=do, outcome=Outcome.HEARD, **fields))

    def _write(self, line: Line) -> None:
        os.write(self._fd, self._encode(line) + b"\n")


def read_history(folder: Path) -> Iterator[Line]:
    """Read what all processes wrote, in the order of time."""
    return merge(*(read_part(path) for path in sorted(folder.glob("*.jsonl"))), key=lambda line: line.at)


def read_part(path: Path) -> Iterator[Line]:
    """Read what one process wrote; a last line that was torn by its death is left out."""
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                yield decode(text)
