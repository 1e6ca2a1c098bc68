"""Who listens to what: a change costs only those who listen to its run or its project."""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from runstore.core.cursor import Place
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.subscription import Version
from runstore.feed.body import Body

_K = TypeVar("_K")
_LOG = logging.getLogger("runstore.feed")


class Push:
    """One change as it is given to listeners: shared by all of them."""

    __slots__ = ("body", "item", "place", "version")

    def __init__(self, place: Place, version: Version, body: Body, item: HistoryItem | None) -> None:
        self.place = place
        self.version = version
        self.body = body
        self.item = item

    @property
    def run(self) -> Run:
        """The run after the change."""
        return self.body.run

    @property
    def is_transition(self) -> bool:
        """Whether the run moved on by it: neither mere progress nor an ignored event."""
        return self.item is not None and not self.item.ignored

    @property
    def has_progress(self) -> bool:
        """Whether it tells how far a running run is."""
        return (self.item is None or not self.item.ignored) and self.run.progress is not None


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """Places of some partitions were lost, or entries after them trimmed unread; the tail stands at new places.

    Units: `since_us` microseconds since 1970 UTC: nothing that was told before it is in doubt.
    """

    partitions: frozenset[int]
    since_us: int
    detail: str


class Listener(Protocol):
    """One who hears changes. Neither method may wait, or raise."""

    def hear(self, pushes: Sequence[Push]) -> None:
        """Take all changes of one commit that the listener is interested in, in order."""
        ...

    def rolled_back(self, rollback: Rollback) -> None:
        """Take that the feed begins anew: whatever the listener knows must be looked up again."""
        ...


class Hub:
    """Interest by run and by project."""

    def __init__(self) -> None:
        self._runs: dict[RunId, set[Listener]] = {}
        self._projects: dict[str, set[Listener]] = {}

    def join(self, listener: Listener, *, run_ids: Iterable[RunId] = (), project_name: str | None = None) -> None:
        """Let a listener hear runs, or all of a project, from the next dispatched commit on."""
        for run_id in run_ids:
            self._runs.setdefault(run_id, set()).add(listener)
        if project_name is not None:
            self._projects.setdefault(project_name, set()).add(listener)

    def leave(self, listener: Listener, *, run_ids: Iterable[RunId] = (), project_name: str | None = None) -> None:
        """Let a listener hear them no longer."""
        for run_id in run_ids:
            _drop(self._runs, run_id, listener)
        if project_name is not None:
            _drop(self._projects, project_name, listener)

    def wants(self, run: Run) -> bool:
        """Whether anybody listens to the run or its project."""
        return run.run_id in self._runs or run.project_name in self._projects

    def dispatch(self, pushes: Sequence[Push]) -> None:
        """Give the changes of one commit to those who listen."""
        heard: dict[Listener, list[Push]] = {}
        for push in pushes:
            run = push.run
            by_run, by_project = self._runs.get(run.run_id, ()), self._projects.get(run.project_name, ())
            for listener in by_run:
                heard.setdefault(listener, []).append(push)
            for listener in by_project:
                if listener not in by_run:
                    heard.setdefault(listener, []).append(push)
        for listener, theirs in heard.items():
            try:
                listener.hear(theirs)
            except Exception:  # noqa: BLE001 - one listener's bug must not deafen the others
                _LOG.exception("listener_failed")

    def roll_back(self, rollback: Rollback) -> None:
        """Tell every listener that the feed begins anew."""
        everybody: set[Listener] = set().union(*self._runs.values(), *self._projects.values())
        for listener in everybody:
            try:
                listener.rolled_back(rollback)
            except Exception:  # noqa: BLE001 - as above
                _LOG.exception("listener_failed")

    @property
    def interests(self) -> int:
        """How many runs and projects somebody listens to."""
        return len(self._runs) + len(self._projects)


def _drop(interest: dict[_K, set[Listener]], key: _K, listener: Listener) -> None:
    listeners = interest.get(key)
    if listeners is not None:
        listeners.discard(listener)
        if not listeners:
            del interest[key]
