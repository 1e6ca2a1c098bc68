"""What is kept back of one partition: entries that were read and are not safe yet, and how far is safe. Pure.

An entry says whether it waits for the mark. What was kept back was told to nobody: where it proves to be of another
life than what comes next, it is dropped, and read again from the place up to which the listeners were told.
"""

from collections import deque
from typing import Final

from runstore.wire.feed import FeedEntry, Mark

MOST: Final = 64
"""Entries that are kept back; the feed is not read on while there are so many."""


class Held:
    """The entries of one partition that wait for the mark."""

    def __init__(self) -> None:
        self._entries: deque[FeedEntry] = deque()
        self._safe_n = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Whether no more is to be read before a mark has come."""
        return len(self._entries) >= MOST

    @property
    def last_n(self) -> int:
        """The number of the last entry that is kept back (0: none is)."""
        return self._entries[-1].n if self._entries else 0

    @property
    def safe_n(self) -> int:
        """The greatest number that a mark had."""
        return self._safe_n

    def hear(self, entry: FeedEntry) -> list[FeedEntry]:
        """Take an entry as it was read, and return those that may be told now."""
        if not entry.is_marked:
            # whoever made this commit waits for nothing, nor will a mark of what came before it come any more
            self._safe_n = max(self._safe_n, entry.n)
        if not self._entries:
            if entry.n <= self._safe_n:
                return [entry]
        elif entry.before is not None and entry.before != self._entries[-1].nonce:
            self.drop()
            return []
        self._entries.append(entry)
        return self._release()

    def mark(self, mark: Mark) -> list[FeedEntry]:
        """Take a mark, and return the entries that may be told now."""
        if any(entry.n == mark.n and entry.nonce != mark.nonce for entry in self._entries):
            self.drop()
            return []
        self._safe_n = max(self._safe_n, mark.n)
        return self._release()

    def drop(self) -> None:
        """Forget what is kept back, and how far was safe."""
        self._entries.clear()
        self._safe_n = 0

    def _release(self) -> list[FeedEntry]:
        released: list[FeedEntry] = []
        while self._entries and self._entries[0].n <= self._safe_n:
            released.append(self._entries.popleft())
        return released
