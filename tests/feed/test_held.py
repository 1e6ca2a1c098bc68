"""What a gateway keeps back until it is safe: pure."""

import pytest

from runstore.feed.held import MOST, Held
from runstore.wire.feed import FeedEntry, Mark


def entry(n: int, *, life: str = "a", before: str | None = "a", is_marked: bool = True) -> FeedEntry:
    nonce = None if before is None else f"{before}{n - 1}".encode()
    return FeedEntry(n=n, nonce=f"{life}{n}".encode(), entry=(n, 0), changes=(), before=nonce, is_marked=is_marked)


def mark(n: int, life: str = "a") -> Mark:
    return Mark(n, f"{life}{n}".encode())


def test_a_marked_entry_is_kept_back_until_the_mark_has_passed_it() -> None:
    held = Held()

    assert held.hear(entry(1)) == []
    assert held.hear(entry(2)) == []
    assert held.hear(entry(3)) == []
    assert held.mark(mark(2)) == [entry(1), entry(2)]
    assert held.last_n == 3
    assert held.mark(mark(3)) == [entry(3)]
    assert not held


def test_a_mark_that_came_before_its_entry_lets_it_through() -> None:
    held = Held()
    held.hear(entry(1))
    assert held.mark(mark(3)) == [entry(1)]

    assert held.hear(entry(2)) == [entry(2)]
    assert held.hear(entry(3)) == [entry(3)]
    assert held.hear(entry(4)) == []


def test_an_entry_that_waits_for_nothing_lets_those_before_it_through() -> None:
    held = Held()
    held.hear(entry(1))

    assert held.hear(entry(2, is_marked=False)) == [entry(1), entry(2, is_marked=False)]
    assert Held().hear(entry(7, is_marked=False)) == [entry(7, is_marked=False)]


@pytest.mark.parametrize("news", [entry(3, life="b", before="b"), mark(2, "b")])
def test_what_is_kept_back_is_dropped_once_it_proves_to_be_of_another_life(news: FeedEntry | Mark) -> None:
    held = Held()
    held.hear(entry(1))
    held.hear(entry(2))

    assert (held.mark(news) if isinstance(news, Mark) else held.hear(news)) == []
    assert not held
    assert held.safe_n == 0, "what was safe in the one life says nothing of the other"


def test_an_entry_of_a_mended_partition_is_kept_back_like_others() -> None:
    held = Held()
    held.hear(entry(1))

    assert held.hear(entry(2, life="b", before=None)) == []
    assert held.mark(mark(2, "b")) == [entry(1), entry(2, life="b", before=None)]


def test_no_more_is_kept_back_than_memory_bears() -> None:
    held = Held()
    for n in range(1, MOST + 1):
        assert not held.is_full
        held.hear(entry(n))

    assert held.is_full
