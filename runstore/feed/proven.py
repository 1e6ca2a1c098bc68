"""Places of clients that were proven, for as long as whoever follows the feed stands behind them.

A rollback behind such a place is one behind the follower's own: it is noticed there, and told to all who listen. So
the place need not be proven again for the next client that comes with it.
"""

from runstore.core.cursor import Cursor, Place, Standing

_MOST = 4096


class Proven:
    """The places, by what was last heard about them; all are forgotten where there are too many."""

    def __init__(self) -> None:
        self._places: set[Place] = set()

    def split(self, cursor: Cursor) -> tuple[dict[int, Standing], Cursor]:
        """Return how the places stand that need not be proven again, and the others."""
        known = {place.partition: Standing.PROVEN for place in cursor if place in self._places}
        return known, tuple(place for place in cursor if place not in self._places)

    def keep(self, place: Place, follower: Place) -> None:
        """Keep a place that was proven, if the follower of its partition stands there or behind it."""
        if place.entry is None and place.epoch == follower.epoch and place.n <= follower.n:
            if len(self._places) >= _MOST:
                self._places.clear()
            self._places.add(place)

    def forget_all(self) -> None:
        """Keep none of them any more."""
        self._places.clear()
