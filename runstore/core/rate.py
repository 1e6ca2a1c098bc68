"""How often something may be done: one bucket a key, filled at a steady rate, and each kept as a single number.

The number is when the bucket will be full again. One that is full is like one that was never used, so it is forgotten:
there are two generations of keys, the older one is dropped once all in it must be full, and a crowd of keys ends a
generation early. What is forgotten too soon by that is in the caller's favour, and memory is bounded whoever comes.
"""

from typing import Final

MOST_KEYS: Final = 65_536
"""Keys of one generation. An honest crowd has fewer active at a time."""

_SLACK_S: Final = 1e-6
"""What adding many small times up may be wrong by, in the caller's favour."""


class Buckets:
    """Buckets by key. Units: `per_s` is what flows into each a second, `burst_s` how many seconds of that it holds.

    Needs: `per_s` above 0. A bucket holds one unit at least, however slowly that comes.
    """

    __slots__ = ("_full_s", "_most", "_old", "_turn_at_s", "_unit_s", "_young", "burst_s")

    def __init__(self, per_s: float, burst_s: float, *, most: int = MOST_KEYS) -> None:
        self._unit_s = 1.0 / per_s
        self._most = most
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}
        self._turn_at_s = float("-inf")
        self._full_s = max(burst_s, self._unit_s)
        self.burst_s = self._full_s + _SLACK_S

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def holds(self) -> int:
        """How many whole units a full bucket has."""
        return self.units(self.burst_s)

    def take(self, key: str, now_s: float, units: float = 1.0) -> float:
        """Take units out of a bucket, if it has them; more than it ever holds count as all it holds.

        Returns how long it then needs to be full. Where that is over `burst_s` nothing was taken, and what it is over
        by is how long to wait.
        """
        full_at_s = self._young.get(key)
        if full_at_s is None:
            full_at_s = self._remember(key, now_s)
        used_s = min(units * self._unit_s, self._full_s)
        if full_at_s > now_s:
            used_s += full_at_s - now_s
        if used_s <= self.burst_s:
            self._young[key] = now_s + used_s
        return used_s

    def units(self, for_s: float) -> int:
        """Return how many whole units flow in within some time."""
        return int(max(0.0, for_s) / self._unit_s)

    def _remember(self, key: str, now_s: float) -> float:
        if now_s >= self._turn_at_s or len(self._young) >= self._most:
            self._old, self._young = self._young, {}
            self._turn_at_s = now_s + self.burst_s
        return self._old.get(key, now_s)
