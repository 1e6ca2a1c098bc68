"""Statuses and the table of transitions: every rule about what may follow what is in this file.

A run moves only forward. Skipping is allowed; the first terminal status in stream order wins for good.
`running` may be entered again by a higher attempt, which is not a transition of the table but a new attempt.
"""

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


_ENDS: Final = frozenset({Status.SUCCESS, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED})

TRANSITIONS: Final[dict[Status | None, frozenset[Status]]] = {
    None: frozenset(Status),
    Status.PENDING: frozenset({Status.RUNNING}) | _ENDS,
    Status.RUNNING: _ENDS,
    Status.SUCCESS: frozenset(),
    Status.FAILED: frozenset(),
    Status.TIMED_OUT: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""From a status (`None`: no run yet) to those that may follow it."""

TERMINAL: Final = frozenset(status for status in Status if not TRANSITIONS[status])


def draw() -> str:
    """Draw the table as a Mermaid state diagram (ARCHITECTURE.md holds the result, and a test compares them)."""
    lines = ["stateDiagram-v2"]
    for before, followers in TRANSITIONS.items():
        name = before.value if before else "[*]"
        lines += [f"    {name} --> {after.value}" for after in Status if after in followers]
    lines.append("    running --> running: higher attempt")
    lines += [f"    {status.value} --> [*]" for status in Status if status in TERMINAL]
    return "\n".join(lines)
