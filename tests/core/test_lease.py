"""Leases and deadlines."""

import pytest

from runstore.core.lease import Verdict, deadline_ms, heartbeat_s, judge_lease, lease_until, resume_reaping_ms


def test_a_lease_outlives_two_lost_heartbeats() -> None:
    assert lease_until(1000, 15_000) == 16_000
    assert heartbeat_s(15_000) * 2 < 15


@pytest.mark.parametrize(
    ("now_ms", "attempt", "attempts", "verdict"),
    [(99, 1, 1, Verdict.HELD), (100, 1, 2, Verdict.RETRY), (100, 2, 2, Verdict.LOST), (100, 3, 2, Verdict.LOST)],
)
def test_a_lease_that_ended_is_retried_while_attempts_remain(
    now_ms: int, attempt: int, attempts: int, verdict: Verdict
) -> None:
    assert judge_lease(until_ms=100, now_ms=now_ms, attempt=attempt, attempts=attempts) is verdict


def test_a_deadline_is_the_timeout_and_the_grace_from_now() -> None:
    assert deadline_ms(1000, 1.5, 2) == 4500


@pytest.mark.parametrize(
    ("now_ms", "elapsed_ms", "resume_ms", "expected"),
    [
        (11_000, 1000, 0, 0),
        (11_000, 1000, 12_000, 12_000),
        (40_000, 30_000, 0, 55_000),
        (3_611_000, 1000, 0, 3_626_000),
        (2_000, 1000, 0, 17_000),
        (11_000, 1000, 90_000, 26_000),
    ],
)
def test_after_an_outage_or_a_jump_of_the_clock_every_lease_gets_a_full_term(
    now_ms: int, elapsed_ms: int, resume_ms: int, expected: int
) -> None:
    resumed = resume_reaping_ms(
        now_ms=now_ms, seen_ms=10_000, elapsed_ms=elapsed_ms, lease_ms=15_000, resume_ms=resume_ms
    )

    assert resumed == expected
