"""Subscriptions: join the live feed, then look the run up, then speak once.

A subscription is made, and hears the feed, before any of its runs is looked up; what it hears of a run that was not
looked up yet is held back. The look-up says which version of the run it saw, and each change which version it made;
versions of one run only grow. So whatever is not newer than what was spoken is a repeat, on whichever path it comes,
and nothing can fall between the paths.
"""

from typing import Final, Generic, NamedTuple, TypeVar

from runstore.core.ids import RunId

P = TypeVar("P")


class Version(NamedTuple):
    """A run's version: the number of the commit in its partition, then the change's place within that commit."""

    n: int
    position: int = 0


WHOLE_COMMIT: Final = 2**31
"""The position of a looked-up run, which has seen all of its last commit."""


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

    def __init__(self, run_ids: frozenset[RunId], *, every_change: bool) -> None:
        self._held: dict[RunId, list[Change[P]]] = {run_id: [] for run_id in run_ids}
        self._spoken: dict[RunId, Version] = {}
        self._open = set(run_ids)
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
        held = self._held.get(change.run_id)
        if held is not None:
            held.append(change)
            return []
        return self._speak(change)

    def look(self, run_id: RunId, snapshot: Change[P] | None) -> list[Change[P]]:
        """Take the run as it was looked up after joining (None: it is not known yet)."""
        held = self._held.pop(run_id, [])
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
            self._spoken.pop(run_id, None)
            self._held.setdefault(run_id, [])

    def _speak(self, change: Change[P]) -> list[Change[P]]:
        if change.run_id not in self._open:
            return []
        spoken = self._spoken.get(change.run_id)
        if spoken is not None and change.version <= spoken:
            return []
        self._spoken[change.run_id] = change.version
        if change.is_terminal:
            self._open.discard(change.run_id)
        return [change] if change.is_terminal or self._every_change else []
