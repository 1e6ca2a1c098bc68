"""A histogram counts each value once, in the first bound that is not below it."""

from hypothesis import given
from hypothesis import strategies as st

from runstore.core.tally import Tally

BOUNDS = (0.1, 1.0, 10.0)
VALUES = st.lists(st.floats(min_value=0, max_value=100))


def tally(values: list[float]) -> Tally:
    made = Tally(BOUNDS)
    for value in values:
        made.observe(value)
    return made


def test_a_value_on_a_bound_is_counted_with_what_lies_below_it() -> None:
    counted = tally([0.05, 0.1, 0.5, 10.0, 11.0])

    assert counted.counts == [2, 1, 1, 1]
    assert counted.total == 21.65


@given(VALUES, VALUES)
def test_two_tallies_together_count_what_one_would_have(ours: list[float], theirs: list[float]) -> None:
    both = tally(ours).plus(tally(theirs))

    assert both.counts == tally(ours + theirs).counts
    assert sum(both.counts) == len(ours) + len(theirs)
