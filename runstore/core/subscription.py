"""Subscriptions: join the live feed, then look the run up, then speak once.

A subscription is made, and hears the feed, before any of its runs is looked up; what it hears of a run that was not
looked up yet is held back. The look-up says which version of the run it saw, and each change which version it made;
versions of one run only grow. So whatever is not newer than what was spoken is a repeat, on whichever path it comes,
and nothing can fall between the paths.
"""

from collections.abc import Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from runstore.core.ids import RunId

P = TypeVar("P")


class Version(NamedTuple):
    """A run's version: the number of the commit in its partition, then the change's place within that commit."""

    n: int
    position: int = 0


WHOLE_COMMIT: Final = 2**31
"""The position of a looked-up run, which has seen all of its last commit."""


_ENDED: Final = Version(2**63)
"""Newer than any version: nothing more is spoken of a run that has ended, or that is not of the subscription."""


class Change(NamedTuple, Generic[P]):
    """What became of one run: its version, whether it has ended by it, and what is to be pushed."""

    run_id: RunId
    version: Version
    is_terminal: bool
    payload: P


class Subscription(Generic[P]):
    """Join the live and the looked-up path of a set of runs.

    With `every_change` each transition is spoken, else only the terminal one. Methods return what is to be pushed
    now, in order. `done` turns true when every run has been spoken of as ended; nothing is returned after that.
    """

    __slots__ = ("_every_change", "_held", "_open")

    def __init__(self, run_ids: Iterable[RunId], *, every_change: bool) -> None:
        self._held: dict[RunId, list[Change[P]]] | None = {run_id: [] for run_id in run_ids}
        """What was heard of the runs that were not looked up yet; None: there is none such."""

        self._open: dict[RunId, Version | None] = dict.fromkeys(run_ids)
        """The version that was spoken of each run that has not been spoken of as ended."""

        self._every_change = every_change

    @property
    def done(self) -> bool:
        """Whether every run has been spoken of as ended."""
        return not self._open

    @property
    def open_runs(self) -> frozenset[RunId]:
        """The runs that have not been spoken of as ended."""
        return frozenset(self._open)

    def hear(self, change: Change[P]) -> list[Change[P]]:
        """Take a change from the live feed."""
        if self._held is not None and change.run_id in self._held:
            self._held[change.run_id].append(change)
            return []
        return self._speak(change)

    def look(self, run_id: RunId, snapshot: Change[P] | None) -> list[Change[P]]:
        """Take the run as it was looked up after joining (None: it is not known yet)."""
        held: list[Change[P]] = []
        if self._held is not None:
            held = self._held.pop(run_id, held)
            self._held = self._held or None
        spoken = self._speak(snapshot) if snapshot is not None else []
        for change in held:
            spoken += self._speak(change)
        return spoken

    def replay(self, change: Change[P]) -> list[Change[P]]:
        """Take a change from before the subscription joined, read back from the feed; call this before `look`."""
        return self._speak(change)

    def forget(self, run_id: RunId) -> None:
        """Make ready for another look at a run, after the feed was rolled back: its versions begin anew."""
        if run_id in self._open:
            self._open[run_id] = None
            self._held = self._held or {}
            self._held.setdefault(run_id, [])

    def _speak(self, change: Change[P]) -> list[Change[P]]:
        run_id, version, is_terminal, _ = change
        spoken = self._open.get(run_id, _ENDED)
        if spoken is not None and version <= spoken:
            return []
        if is_terminal:
            del self._open[run_id]
            return [change]
        self._open[run_id] = version
        return [change] if self._every_change else []
