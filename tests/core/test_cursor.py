"""A place can be proven."""

from typing import Any

import pytest

from runstore.core.cursor import FeedSight, Place, Standing, certain_ms, judge
from runstore.core.event import EntryId


def sight(**fields: Any) -> FeedSight:
    seen: dict[str, Any] = {"epoch": b"e", "first": 3, "last": 9, "nonce_at": b"n5"}
    seen |= {"last_entry": EntryId(100, 0), "log_end": EntryId(200, 0)}
    return FeedSight(**(seen | fields))


def place(**fields: Any) -> Place:
    return Place(**({"partition": 0, "epoch": b"e", "n": 5, "nonce": b"n5"} | fields))


@pytest.mark.parametrize(
    ("what", "seen", "standing"),
    [
        (place(), sight(), Standing.PROVEN),
        (place(epoch=b"x"), sight(), Standing.LOST),
        (place(n=10), sight(nonce_at=None), Standing.LOST),
        (place(), sight(nonce_at=b"other"), Standing.LOST),
        (place(n=2), sight(nonce_at=None), Standing.PROVEN),
        (place(n=1), sight(nonce_at=None), Standing.GAP),
        (place(n=9), sight(first=9, nonce_at=b"n5"), Standing.PROVEN),
        (place(n=0, nonce=b""), sight(first=0, last=0, nonce_at=None), Standing.PROVEN),
        (place(n=0, nonce=b""), sight(first=1, nonce_at=None), Standing.PROVEN),
        (place(entry=EntryId(100, 0)), sight(), Standing.PROVEN),
        (place(entry=EntryId(150, 0)), sight(), Standing.AHEAD),
        (place(entry=EntryId(201, 0)), sight(), Standing.LOST),
        (place(entry=EntryId(100, 0)), sight(log_end=EntryId(0, 0)), Standing.PROVEN),
        (place(entry=EntryId(90, 0)), sight(log_first=EntryId(80, 0), is_logged=False), Standing.LOST),
        (place(entry=EntryId(90, 0)), sight(log_first=EntryId(80, 0), is_logged=True), Standing.PROVEN),
        (place(entry=EntryId(70, 0)), sight(log_first=EntryId(80, 0), is_logged=False), Standing.PROVEN),
        (place(entry=EntryId(90, 0)), sight(log_first=EntryId(0, 0), is_logged=False), Standing.PROVEN),
    ],
)
def test_a_place_is_judged_by_what_the_feed_still_shows(what: Place, seen: FeedSight, standing: Standing) -> None:
    assert judge(what, seen) is standing


def test_entry_ids_are_ordered_as_numbers() -> None:
    assert EntryId(9, 0) < EntryId(10, 0)
    assert str(EntryId(10, 2)) == "10-2"


def test_a_place_where_nothing_was_folded_is_no_older_than_those_beside_it() -> None:
    empty, old, new = (
        Place(partition=0, epoch=b"e"),
        Place(partition=1, epoch=b"e", n=1, folded=EntryId(1_000, 0)),
        Place(partition=2, epoch=b"e", n=1, entry=EntryId(9_000, 0)),
    )

    assert certain_ms([empty], [empty, old, new]) == 1_000
    assert certain_ms([empty, new], [empty, new]) == 9_000
    assert certain_ms([new], [empty, old, new]) == 9_000
    assert certain_ms([empty], [empty]) == 0
