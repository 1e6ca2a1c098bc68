"""What a benchmark found: series of values, and checks that hold a goal against the ratios of each round."""

from collections.abc import Sequence
from statistics import median, quantiles

import msgspec


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One thing measured, once a round. `is_ours` is false for a yardstick."""

    label: str
    unit: str
    values: tuple[float, ...]
    is_ours: bool = False

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A goal: the median of `values` is `limit` at most, or at least where `at_most` is false."""

    what: str
    values: tuple[float, ...]
    limit: float
    at_most: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return median(self.values) <= self.limit if self.at_most else median(self.values) >= self.limit


class Found(msgspec.Struct, kw_only=True):
    """What one row of the table came to. `skipped` are yardsticks that were not there, with the reason."""

    series: list[Series] = msgspec.field(default_factory=list)
    checks: list[Check] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    skipped: list[str] = msgspec.field(default_factory=list)

    def ours(self, label: str, unit: str, values: Sequence[float]) -> Series:
        """Note what runstore did."""
        return self._add(label, unit, values, is_ours=True)

    def yardstick(self, label: str, unit: str, values: Sequence[float]) -> Series:
        """Note what the yardstick did."""
        return self._add(label, unit, values, is_ours=False)

    def at_most(self, limit: float, what: str, ours: Sequence[float], yardstick: Sequence[float] | None = None) -> None:
        """Hold ours, or its ratio to the yardstick in each round, to a limit."""
        self.checks.append(Check(what=what, values=_ratios(ours, yardstick), limit=limit))

    def at_least(
        self, limit: float, what: str, ours: Sequence[float], yardstick: Sequence[float] | None = None
    ) -> None:
        """The other way round."""
        self.checks.append(Check(what=what, values=_ratios(ours, yardstick), limit=limit, at_most=False))

    def _add(self, label: str, unit: str, values: Sequence[float], *, is_ours: bool) -> Series:
        series = Series(label=label, unit=unit, values=tuple(values), is_ours=is_ours)
        self.series.append(series)
        return series


def _ratios(ours: Sequence[float], yardstick: Sequence[float] | None) -> tuple[float, ...]:
    if yardstick is None:
        return tuple(ours)
    return tuple(one / other for one, other in zip(ours, yardstick, strict=True))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
