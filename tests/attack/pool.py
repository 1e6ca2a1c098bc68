"""Messages that Hypothesis makes, valid and broken, the same for the same seed."""

from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
"""Any JSON, and NaN and infinities, which Python writes as if they were."""


def size_for(inputs: int) -> int:
    """Say how many examples are worth their time for so many inputs."""
    return min(1500, max(100, inputs // 8))


def pool(strategy: st.SearchStrategy[T], size: int, of: int) -> list[T]:
    """Draw so many examples, about."""
    drawn: list[T] = []

    @seed(of)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: T) -> None:
        drawn.append(example)

    draw()
    return drawn


def spoilt(
    good: dict[str, st.SearchStrategy[Any]], *, required: tuple[str, ...] = ()
) -> st.SearchStrategy[dict[str, Any]]:
    """Make records of these fields: good ones, ones with a field of any JSON, and any JSON objects."""
    names = st.sampled_from(sorted(good))
    whole = st.fixed_dictionaries(
        {name: good[name] for name in required},
        optional={name: value for name, value in good.items() if name not in required},
    )
    return st.one_of(
        whole,
        whole,
        st.builds(lambda record, name, value: {**record, name: value}, whole, names, JSON),
        st.builds(lambda record, name: {k: v for k, v in record.items() if k != name}, whole, names),
        st.dictionaries(names | st.text(max_size=8), JSON, max_size=4),
    )
