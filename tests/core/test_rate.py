"""Buckets: what each lets through over any time, and that many of them cost no more than some."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.errors import RateLimited
from runstore.core.rate import Buckets


def taken(buckets: Buckets, key: str, now_s: float, units: float = 1.0) -> bool:
    return buckets.take(key, now_s, units) <= buckets.burst_s


def test_a_full_bucket_lets_a_burst_through_and_then_what_flows_in() -> None:
    buckets = Buckets(10, 2)

    at_once = sum(taken(buckets, "a", 0.0) for _ in range(100))
    a_second_later = sum(taken(buckets, "a", 1.0) for _ in range(100))
    much_later = sum(taken(buckets, "a", 1000.0) for _ in range(100))

    assert (at_once, a_second_later, much_later) == (20, 10, 20)
    assert buckets.holds == 20


def test_one_who_is_refused_and_waits_as_told_is_let_through() -> None:
    buckets = Buckets(4, 1)
    while taken(buckets, "a", 0.0):
        pass

    wait_s = buckets.take("a", 0.0) - buckets.burst_s

    assert wait_s == pytest.approx(0.25, abs=0.001)
    assert not taken(buckets, "a", wait_s - 0.01)
    assert taken(buckets, "a", wait_s)


def test_the_bucket_of_one_is_not_anothers() -> None:
    buckets = Buckets(1, 1)

    assert [taken(buckets, key, 0.0) for key in ("a", "a", "b", "b")] == [True, False, True, False]


def test_more_than_a_bucket_ever_holds_takes_all_of_it_and_can_be_had() -> None:
    buckets = Buckets(10, 1)

    assert taken(buckets, "a", 0.0, 1000)
    assert not taken(buckets, "a", 0.5, 1000)
    assert taken(buckets, "a", 1.0, 1000)


def test_a_rate_below_one_in_a_burst_still_lets_one_through() -> None:
    buckets = Buckets(0.01, 1)

    assert [taken(buckets, "a", at) for at in (0.0, 50.0, 100.0)] == [True, False, True]
    assert buckets.holds == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3), st.integers(1, 4)), max_size=60),
    st.sampled_from([1.0, 3.0, 7.0]),
    st.sampled_from([1.0, 2.0]),
)
def test_it_decides_as_a_bucket_of_its_own_would_for_each_key(
    asked: list[tuple[str, float, int]], per_s: float, burst_s: float
) -> None:
    buckets, now_s = Buckets(per_s, burst_s), 0.0
    level = dict.fromkeys("abc", per_s * burst_s)
    seen_s = dict.fromkeys("abc", 0.0)

    for key, later_s, units in asked:
        now_s += later_s
        level[key] = min(per_s * burst_s, level[key] + (now_s - seen_s[key]) * per_s)
        seen_s[key] = now_s
        wanted = min(float(units), per_s * burst_s)
        if abs(level[key] - wanted) < 1e-4:
            return  # either answer is right
        assert taken(buckets, key, now_s, units) is (level[key] > wanted)
        level[key] -= wanted if level[key] > wanted else 0


def test_what_is_full_again_is_forgotten() -> None:
    buckets = Buckets(10, 1)

    for second in range(0, 100, 3):
        for number in range(50):
            buckets.take(f"{second} {number}", float(second))

    assert len(buckets) == 100


@given(st.integers(1, 500))
def test_memory_is_bounded_however_many_keys_come(keys: int) -> None:
    buckets = Buckets(1, 1, most=20)

    for number in range(keys):
        buckets.take(str(number), number * 0.001)

    assert len(buckets) <= 40


def test_a_bucket_keeps_its_place_over_a_turn_of_generations() -> None:
    buckets = Buckets(1, 10)
    buckets.take("a", 0.0)
    assert taken(buckets, "a", 9.0, 9)

    buckets.take("b", 10.5)

    assert not taken(buckets, "a", 11.0, 10)
    assert taken(buckets, "a", 11.0, 2)


def test_a_refusal_says_when_to_come_again_and_in_a_second_unless_told() -> None:
    assert (RateLimited("no").retry_after_s, RateLimited("no", 7.5).retry_after_s) == (1.0, 7.5)
