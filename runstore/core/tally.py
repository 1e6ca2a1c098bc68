"""A histogram as plain numbers: counting costs a search in a short row, and whoever asks reads it."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

DELAY_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds for the time from an event to its push. Unit: seconds."""


class Tally:
    """How many values fell below each of some bounds (the last count: above all of them), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float], counts: Sequence[int] = (), total: float = 0.0) -> None:
        self.bounds = tuple(bounds)
        self.counts = list(counts) or [0] * (len(self.bounds) + 1)
        self.total = total

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def plus(self, other: "Tally") -> "Tally":
        """Return what both have counted. Needs: the same bounds."""
        counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        return Tally(self.bounds, counts, self.total + other.total)
