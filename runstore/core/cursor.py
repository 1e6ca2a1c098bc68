"""Places in the store's feed, and how one is proven still to be there.

A commit of partition `p` writes one feed entry, numbered 1, 2, 3 … without gaps, that holds the commit's random
nonce. So a place (epoch, n, nonce) can be proven: another epoch, a last number below n, or another nonce at n says
that the log was rolled back or replaced. A first kept number above n + 1 says that entries were trimmed unread.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from runstore.core.event import EntryId

NONCE_BYTES: Final = 8
START_NONCE: Final = b""


class Place(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A place in one partition.

    `n` and `nonce` name the feed entry that was last seen (0 and empty: none yet). `entry` is set instead where the
    place was given to a publisher before the projector got there: the event's own place in the log. `folded` is the
    last event that was folded by `n`, where that is known: nothing is proven by it, but it finds the place in a run's
    history, and says from when on to catch up once the place is lost.
    """

    partition: int
    epoch: bytes
    n: int = 0
    nonce: bytes = START_NONCE
    entry: EntryId | None = None
    folded: EntryId | None = None


Cursor = tuple[Place, ...]
"""Places of the partitions that a client needs, at most one for each."""


def certain_ms(places: Iterable[Place], beside: Iterable[Place] = ()) -> int:
    """Return the stream time up to which whoever stood at these places was told everything; 0: nothing is known.

    Where nothing had been folded yet, that was so when the places beside it were folded: their times hold for it too.
    """
    others = min((ms for place in beside if (ms := _told_ms(place))), default=0)
    return min(_told_ms(place) or others for place in places)


def _told_ms(place: Place) -> int:
    at = place.folded or place.entry
    return at.ms if at is not None else 0


class Standing(StrEnum):
    """What the feed says about a place."""

    PROVEN = "proven"
    AHEAD = "ahead"
    GAP = "gap"
    LOST = "lost"


class FeedSight(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a partition's feed when a place was looked up.

    `first` and `last` are the numbers of the oldest and newest kept entries (0: none), `nonce_at` the nonce of the
    entry at the place's own number where it is still kept, `last_entry` the last event that was folded, `log_end` the
    newest id the events stream ever gave out, `log_first` the oldest that it still holds (0-0: none), and `is_logged`
    whether it holds the place's own event.
    """

    epoch: bytes
    first: int
    last: int
    nonce_at: bytes | None
    last_entry: EntryId
    log_end: EntryId
    log_first: EntryId = EntryId(0, 0)
    is_logged: bool = True


def judge(place: Place, sight: FeedSight) -> Standing:
    """Say whether a place is proven, ahead of the projector, cut off from what was kept, or lost."""
    if place.epoch != sight.epoch:
        return Standing.LOST
    if place.entry is not None:
        if place.entry > sight.log_end and place.entry > sight.last_entry:
            return Standing.LOST
        if not sight.is_logged and EntryId(0, 0) < sight.log_first < place.entry:
            # it was not trimmed, for older ones are there
            return Standing.LOST
        return Standing.PROVEN if place.entry <= sight.last_entry else Standing.AHEAD
    if place.n > sight.last:
        return Standing.LOST
    if sight.nonce_at is not None and place.n > 0 and sight.nonce_at != place.nonce:
        return Standing.LOST
    return Standing.GAP if sight.first > place.n + 1 else Standing.PROVEN
