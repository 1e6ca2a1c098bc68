"""The latest events that the store acknowledged, kept in memory for as long as it might take them back.

A Redis may come back with less than it acknowledged: restored from a backup, without the last second of its log, failed
over to a replica that lagged, emptied or replaced. Whoever published lately sees that the newest of these events is no
longer where it was, and sends them again; what the store still has is changed by that in nothing.
"""

from collections import deque
from collections.abc import Collection, Mapping

import msgspec

from runstore.core.cursor import Place
from runstore.core.event import Event

_EVENT_BYTES = 1024


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """An event and its place. `life` counts the connections made to the store until then; `at` is the loop's time."""

    event: Event
    place: Place
    life: int
    at: float


class Recent:
    """At most so many bytes of events, the newest of all in any case."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: deque[Acknowledged] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions of which something is kept."""
        return frozenset(each.place.partition for each in self._kept)

    def add(self, acknowledged: Acknowledged) -> None:
        """Keep an event."""
        if self._most_bytes <= 0:
            return
        self._kept.append(acknowledged)
        self._bytes += _size(acknowledged)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._drop()

    def doubtful(self, life: int, epochs: Mapping[int, bytes]) -> list[Place]:
        """Return of each partition the newest place from before the present connections, or of another epoch."""
        found: dict[int, Place] = {}
        for each in self._kept:
            partition, epoch = each.place.partition, each.place.epoch
            if each.life < life or epochs.get(partition, epoch) != epoch:
                found[partition] = each.place
        return list(found.values())

    def of(self, partitions: Collection[int]) -> list[Acknowledged]:
        """Return all that is kept of some partitions, in the order in which it was acknowledged."""
        return [each for each in self._kept if each.place.partition in partitions]

    def forget(self, some: Collection[Acknowledged]) -> None:
        """Forget events that were sent again."""
        known = set(map(id, some))
        self._kept = deque(each for each in self._kept if id(each) not in known)
        self._bytes = sum(map(_size, self._kept))

    def forget_before(self, at: float) -> None:
        """Forget what was acknowledged before a time."""
        while self._kept and self._kept[0].at < at:
            self._drop()

    def _drop(self) -> None:
        self._bytes -= _size(self._kept.popleft())


def _size(acknowledged: Acknowledged) -> int:
    return _EVENT_BYTES + len(acknowledged.event.output or b"")
