"""Who listens to what: a change costs only those who listen to its run or its project."""

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import msgspec

from runstore.core.cursor import Place
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem, Run
from runstore.core.subscription import Version
from runstore.feed.body import Body

_LOG = logging.getLogger("runstore.feed")


class Push:
    """One change as it is given to listeners: shared by all of them."""

    __slots__ = ("body", "has_progress", "is_transition", "item", "place", "run", "version")

    def __init__(self, place: Place, version: Version, body: Body, item: HistoryItem | None) -> None:
        self.place = place
        self.version = version
        self.body = body
        self.item = item
        self.run: Run = body.run
        """The run after the change."""

        self.is_transition = item is not None and not item.ignored
        """Whether the run moved on by it: neither mere progress nor an ignored event."""

        self.has_progress = body.run.progress is not None and (item is None or not item.ignored)
        """Whether it tells how far a running run is."""


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
        self._runs: dict[RunId, Listener | set[Listener]] = {}
        """Most runs have one listener, and a set takes ten times the room."""

        self._projects: dict[str, set[Listener]] = {}

    def join(self, listener: Listener, *, run_ids: Iterable[RunId] = (), project_name: str | None = None) -> None:
        """Let a listener hear runs, or all of a project, from the next dispatched commit on."""
        for run_id in run_ids:
            known = self._runs.get(run_id)
            if known is None:
                self._runs[run_id] = listener
            elif isinstance(known, set):
                known.add(listener)
            elif known is not listener:
                self._runs[run_id] = {known, listener}
        if project_name is not None:
            self._projects.setdefault(project_name, set()).add(listener)

    def leave(self, listener: Listener, *, run_ids: Iterable[RunId] = (), project_name: str | None = None) -> None:
        """Let a listener hear them no longer."""
        for run_id in run_ids:
            known = self._runs.get(run_id)
            if isinstance(known, set):
                known.discard(listener)
            if known is listener or known == set():
                del self._runs[run_id]
        if project_name is not None:
            listeners = self._projects.get(project_name)
            if listeners is not None:
                listeners.discard(listener)
                if not listeners:
                    del self._projects[project_name]

    def wants(self, run: Run) -> bool:
        """Whether anybody listens to the run or its project."""
        return run.run_id in self._runs or run.project_name in self._projects

    def dispatch(self, pushes: Sequence[Push]) -> None:
        """Give the changes of one commit to those who listen."""
        heard: dict[Listener, list[Push]] = {}
        for push in pushes:
            run = push.run
            by_run = self._by_run(run.run_id)
            for listener in by_run:
                heard.setdefault(listener, []).append(push)
            for listener in self._projects.get(run.project_name, ()):
                if listener not in by_run:
                    heard.setdefault(listener, []).append(push)
        for listener, theirs in heard.items():
            try:
                listener.hear(theirs)
            except Exception:  # noqa: BLE001 - one listener's bug must not deafen the others
                _LOG.exception("listener_failed")

    def roll_back(self, rollback: Rollback) -> None:
        """Tell every listener that the feed begins anew."""
        everybody: set[Listener] = set().union(*map(self._by_run, self._runs), *self._projects.values())
        for listener in everybody:
            try:
                listener.rolled_back(rollback)
            except Exception:  # noqa: BLE001 - as above
                _LOG.exception("listener_failed")

    def _by_run(self, run_id: RunId) -> Collection[Listener]:
        known = self._runs.get(run_id)
        if known is None:
            return ()
        return known if isinstance(known, set) else (known,)

    @property
    def interests(self) -> int:
        """How many runs and projects somebody listens to."""
        return len(self._runs) + len(self._projects)
