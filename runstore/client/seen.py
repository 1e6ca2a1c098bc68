"""What a watch has handed out, so that what comes again after a resumption is not handed out twice. Pure.

A run moves only forward: what is behind what was handed out is a repeat, and so is whatever follows an end. The same
answer again is a repeat only right after a resumption; at other times it is news (a new attempt looks no different).
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from runstore.client.run import Run
from runstore.core.status import TERMINAL, Status

MAX_RUNS: Final = 50_000


class _Last(NamedTuple):
    rank: int
    digest: int


class Seen:
    """The last that was handed out of each run; of the runs of a project, the newest 50,000."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, _Last] = OrderedDict()
        self._suspects: set[str] = set()

    def resumed(self) -> None:
        """Take note that what comes next may be a repeat."""
        self._suspects = set(self._last)

    def has_ended(self, run_id: str) -> bool:
        """Whether a run was handed out as ended."""
        last = self._last.get(run_id)
        return last is not None and last.rank == _ENDED

    def is_news(self, run: Run, text: bytes, *, was_asked_for: bool = False) -> bool:
        """Whether a run, as it was written in `text`, is to be handed out; it then counts as handed out.

        One that was asked for, not pushed, may always be a repeat.
        """
        now, last = _Last(_rank(run.status), hash(text)), self._last.get(run.run_id)
        suspect = was_asked_for or run.run_id in self._suspects
        self._suspects.discard(run.run_id)
        if last is not None and (last.rank == _ENDED or now.rank < last.rank or (suspect and now == last)):
            return False
        self._last[run.run_id] = now
        self._last.move_to_end(run.run_id)
        if len(self._last) > MAX_RUNS:
            self._last.popitem(last=False)
        return True


_ENDED: Final = 2


def _rank(status: Status) -> int:
    return _ENDED if status in TERMINAL else int(status is Status.RUNNING)
