"""Leases and deadlines: who may still be working on a run, and what to do when nobody is.

All times are the store's own (`TIME` of Redis), in milliseconds; a worker's clock is never compared with them.
"""

from enum import StrEnum
from typing import Final

HEARTBEATS_PER_LEASE: Final = 3
MAX_TURN_GAP: Final = 0.5
"""A gap between two turns of the reaper, or a jump of the store's clock, over this share of a lease is an outage."""


class Verdict(StrEnum):
    """What the reaper makes of a lease."""

    HELD = "held"
    RETRY = "retry"
    LOST = "lost"


def lease_until(now_ms: int, lease_ms: int) -> int:
    """Return when a lease taken or renewed now ends."""
    return now_ms + lease_ms


def heartbeat_s(lease_ms: int) -> float:
    """Return how often a worker renews a lease, so that two lost heartbeats still lose nothing."""
    return lease_ms / HEARTBEATS_PER_LEASE / 1000


def judge_lease(*, until_ms: int, now_ms: int, attempt: int, attempts: int) -> Verdict:
    """Say whether a lease still holds, and if not whether its run may be tried again."""
    if now_ms < until_ms:
        return Verdict.HELD
    return Verdict.RETRY if attempt < attempts else Verdict.LOST


def deadline_ms(now_ms: int, timeout_s: float, grace_s: float = 0.0) -> int:
    """Return when a run that begins now is past its time."""
    return now_ms + round((timeout_s + grace_s) * 1000)


def resume_reaping_ms(*, now_ms: int, seen_ms: int, elapsed_ms: int, lease_ms: int, resume_ms: int) -> int:
    """Return the time before which the reaper ends nothing.

    `seen_ms` is the store's time at the turn before and `elapsed_ms` what passed since by the reaper's own monotonic
    clock. After an outage, a failover or a jump of the store's clock every lease gets one full term.
    """
    most = lease_ms * MAX_TURN_GAP
    disturbed = elapsed_ms > most or abs(now_ms - seen_ms - elapsed_ms) > most
    return now_ms + lease_ms if disturbed else min(resume_ms, now_ms + lease_ms)
