"""Sources of a listing: the runs of one partition and project from a position down, a chunk at a time."""

from collections import deque
from typing import Any, Final, NamedTuple, Protocol

from runstore.wire.keys import PartitionKeys

Command = tuple[bytes | str | int, ...]
_PAGES_A_READ: Final = 8
_FEW: Final = 16


class Candidate(NamedTuple):
    """A run's place in the order of listings: when it was created, then its packed id; greater is newer."""

    ms: int
    packed_id: bytes


NEWEST: Final = Candidate(2**62, b"")
_ABOVE_ALL: Final = b"\xff" * 17


class Source(Protocol):
    """Candidates in descending order. `next` is the next one, or while `is_hungry` a bound that none is above."""

    @property
    def next(self) -> Candidate: ...
    @property
    def is_hungry(self) -> bool: ...
    @property
    def is_exhausted(self) -> bool: ...
    def commands(self) -> list[Command]: ...
    def accept(self, replies: list[Any]) -> None: ...
    def pop(self) -> Candidate: ...


class _Chunks:
    """What every source has: a chunk that was read, and the place below which nothing was read yet."""

    def __init__(self, below: Candidate, least_ms: int) -> None:
        self._below = below
        self._least_ms = least_ms
        self._chunk: deque[Candidate] = deque()
        self._done = below.ms < least_ms

    @property
    def next(self) -> Candidate:
        return self._chunk[0] if self._chunk else Candidate(self._below.ms, _ABOVE_ALL)

    @property
    def is_hungry(self) -> bool:
        return not self._chunk and not self._done

    @property
    def is_exhausted(self) -> bool:
        return not self._chunk and self._done

    def pop(self) -> Candidate:
        return self._chunk.popleft()


class StatusSource(_Chunks):
    """Runs in some statuses, from the sets of those statuses.

    All sets are read at the same time and down to the same place, in the order in which a run moves through them.
    """

    def __init__(self, keys: list[bytes], below: Candidate, least_ms: int) -> None:
        super().__init__(below, least_ms)
        self._keys = keys
        self._count = 2 * _FEW

    def commands(self) -> list[Command]:
        return [_newest_first(key, self._below.ms, self._least_ms, self._count) for key in self._keys]

    def accept(self, replies: list[Any]) -> None:
        read = [_candidates(reply) for reply in replies]
        cut = [found[-1] for found in read if len(found) >= self._count]
        floor = max(cut) if cut else Candidate(-1, b"")
        found = {candidate for candidates in read for candidate in candidates if floor <= candidate < self._below}
        self._chunk.extend(sorted(found, reverse=True))
        self._done = not cut
        if cut and floor >= self._below:
            self._count *= 4
        else:
            self._below = min(floor, self._below)


class PageSource(_Chunks):
    """Runs in any status, from the project's pages of 100 runs; whole pages are passed over where none can match.

    Two pages may share a millisecond. What was created in the first one of a page is held until the page before it
    was read as well, so that runs of one millisecond come in the order of their ids.
    """

    def __init__(
        self, keys: PartitionKeys, name: str, below: Candidate, *, least_ms: int, finished_ms: int | None
    ) -> None:
        super().__init__(below, least_ms)
        self._keys = keys
        self._name = name
        self._finished_ms = finished_ms
        self._wanted: frozenset[bytes] | None = None
        self._pages: deque[tuple[int, bytes]] = deque()
        self._pages_upto = b"%d" % below.ms
        self._pages_done = False
        self._asked = ""
        self._bound_ms = below.ms
        self._page_rest: Candidate | None = None
        self._held: list[Candidate] = []

    @property
    def next(self) -> Candidate:
        if self._chunk:
            return self._chunk[0]
        return Candidate(max([self._bound_ms, *(candidate.ms for candidate in self._held)]), _ABOVE_ALL)

    def commands(self) -> list[Command]:
        pages = self._keys.pages(self._name)
        if self._finished_ms is not None and self._wanted is None:
            self._asked = "wanted"
            return [("ZRANGEBYSCORE", self._keys.finished(self._name), self._finished_ms, "+inf")]
        if not self._pages:
            self._asked = "pages"
            return [("ZREVRANGEBYSCORE", pages, self._pages_upto, "-inf", "WITHSCORES", "LIMIT", 0, _PAGES_A_READ)]
        began_ms, page = self._pages[0]
        if not page:
            self._asked = "ties"
            return [("ZREVRANGEBYSCORE", pages, began_ms, began_ms, "WITHSCORES")]
        self._asked = "runs"
        key = self._keys.page(self._name, int(page))
        return [_newest_first(key, self._bound_ms, self._least_ms, _FEW if self._page_rest is None else -1)]

    def accept(self, replies: list[Any]) -> None:
        match self._asked:
            case "wanted":
                self._wanted = frozenset(replies[0])
                self._done = not self._wanted
            case "pages":
                self._take_pages(_pairs(replies[0]))
            case "ties":
                self._pages_upto = b"(%d" % self._pages[0][0]
                self._pages = _numeric(_pairs(replies[0]))
                self._pass_over()
            case _:
                self._take_runs(_candidates(replies[0]))

    def _take_pages(self, pairs: list[tuple[bytes, int]]) -> None:
        lowest = pairs[-1][1] if pairs else 0
        if len(pairs) < _PAGES_A_READ:
            self._pages_done = True
        elif pairs[0][1] == lowest:
            # more pages may have begun in this very millisecond than one read brings: read that millisecond whole
            self._pages = deque([(lowest, b"")])
            return
        else:
            pairs = [pair for pair in pairs if pair[1] > lowest]
            self._pages_upto = b"%d" % lowest
        self._pages = _numeric(pairs)
        self._pass_over()

    def _take_runs(self, found: list[Candidate]) -> None:
        limit = self._below if self._page_rest is None else min(self._below, self._page_rest)
        ready = [*self._held, *(candidate for candidate in found if candidate < limit)]
        began_ms, _ = self._pages[0]
        if self._page_rest is None and len(found) >= _FEW:
            self._page_rest = found[-1]
            self._bound_ms = found[-1].ms
            self._release(ready, max(found[-1], Candidate(began_ms + 1, b"")))
            return
        self._page_rest = None
        self._pages.popleft()
        self._release(ready, Candidate(began_ms + 1, b""))
        self._leave(began_ms)
        self._pass_over()

    def _release(self, ready: list[Candidate], floor: Candidate) -> None:
        self._chunk.extend(sorted((candidate for candidate in ready if candidate >= floor), reverse=True))
        self._held = [candidate for candidate in ready if candidate < floor]

    def _leave(self, began_ms: int) -> None:
        # what is on older pages was created no later than the first run of this one
        self._bound_ms = min(self._bound_ms, began_ms)
        self._done = self._done or began_ms < self._least_ms

    def _pass_over(self) -> None:
        while self._pages and self._pages[0][1] and self._wanted is not None and self._pages[0][1] not in self._wanted:
            self._leave(self._pages.popleft()[0])
        self._done = self._done or (self._pages_done and not self._pages)
        if self._done:
            self._release(self._held, Candidate(-1, b""))


def _newest_first(key: bytes, upto_ms: int, least_ms: int, count: int) -> Command:
    return ("ZREVRANGEBYSCORE", key, upto_ms, least_ms, "WITHSCORES", "LIMIT", 0, count)


def _pairs(reply: Any) -> list[tuple[bytes, int]]:
    if reply and isinstance(reply[0], list | tuple):
        return [(member, int(score)) for member, score in reply]
    return [(reply[i], int(float(reply[i + 1]))) for i in range(0, len(reply), 2)]


def _candidates(reply: Any) -> list[Candidate]:
    return [Candidate(ms, packed_id) for packed_id, ms in _pairs(reply)]


def _numeric(pairs: list[tuple[bytes, int]]) -> deque[tuple[int, bytes]]:
    """Order pages newest first; those that began in one millisecond by their numbers, which sort as numbers only."""
    return deque(sorted(((ms, page) for page, ms in pairs), key=lambda pair: (pair[0], int(pair[1])), reverse=True))
