"""The rules that a history must obey, whoever saw what, in one pass over it in the order of time. Pure.

What somebody has seen of a run is a floor: whoever asks after that, from any gateway, sees as much or more. What is
asked for before, or pushed, may lag; pushes to one subscriber about one run never go back.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from runstore.core.status import TERMINAL, Status
from tests.chaos.history import Line, Outcome
from tests.chaos.report import Report

ONE_END: Final = "one terminal status a run"
NO_STEP_BACK: Final = "what was seen is not taken back"
READABLE: Final = "pushed is readable"
IN_ORDER: Final = "pushes of a run come in order"
READ_YOUR_WRITES: Final = "after its cursor an event is seen"
LISTED: Final = "walks of lists are complete"
HEARD: Final = "each subscriber hears every end"
CURSOR_KEPT: Final = "no place is lost"
OF_TIME: Final = (ONE_END, NO_STEP_BACK, READABLE, IN_ORDER, READ_YOUR_WRITES, LISTED, HEARD, CURSOR_KEPT)
"""What a store that loses its newest second cannot promise: it is told (`reset`), and not broken."""

_RANK: Final = {Status.PENDING: 0, Status.RUNNING: 1} | dict.fromkeys(TERMINAL, 2)


def rank(status: str) -> int:
    """Say how far a run is in a status (-1: there is no such run)."""
    return _RANK[Status(status)] if status else -1


class Known:
    """What is known of one run so far."""

    __slots__ = ("end", "ended_at", "first_at", "rank", "was_pushed")

    def __init__(self) -> None:
        self.rank = -1
        self.was_pushed = False
        self.end = ""
        self.first_at = 0
        self.ended_at = 0


class Listening:
    """One subscription: what it is about, and what it heard."""

    def __init__(self, line: Line) -> None:
        self.at = line.at
        self.run_ids = line.run_ids
        self.project = line.project
        self.ended: set[str] = set()
        self.ranks: dict[str, int] = {}


class Ears:
    """Takes the history line by line; `finish` says what should have been heard by its end."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.known: dict[str, Known] = {}
        self.subscriptions: dict[str, Listening] = {}
        self.told_end_at: dict[str, int] = {}
        self.projects: dict[str, str] = {}
        self.cuts_at: list[int] = []
        self.acknowledged: dict[str, Line] = {}
        self._floors: dict[tuple[str, int], tuple[int, bool, str]] = {}
        self._walks: list[tuple[int, Line]] = []
        self._asked_at: dict[tuple[str, int], int] = {}

    def take(self, line: Line) -> None:
        """Take the next line."""
        match line.do:
            case "publish":
                self._publish(line)
            case "get" | "submit" | "cancel":
                self._call(line)
            case "list":
                self._list(line)
            case "subscribe":
                self.subscriptions[line.who] = Listening(line)
                self.report.counts["subscriptions"] += 1
            case "push":
                self._push(line)
            case "fault" if line.detail.startswith("power "):
                self.cuts_at.append(line.at)
            case "watch-failed":
                self.report.broken(HEARD, f"{line.who}: {line.detail}")

    def finish(self, ends: Mapping[str, str], created_ms: Mapping[str, int]) -> None:
        """Judge what needs all of the history: `ends` are the runs that ended with how, in the final store."""
        for who, listening in self.subscriptions.items():
            due = listening.run_ids or self._ended_after(listening)
            for run_id in due:
                if run_id in ends and run_id not in listening.ended:
                    self.report.broken(HEARD, f"{who} never heard that {run_id} was {ends[run_id]}")
                self.report.counts["ends due to subscribers"] += run_id in ends
        for run_id, known in self.known.items():
            if known.end and ends.get(run_id, known.end) != known.end:
                self.report.broken(ONE_END, f"{run_id} was seen as {known.end} and stands as {ends[run_id]}")
        self._judge_walks(created_ms)

    def _ended_after(self, listening: Listening) -> Iterable[str]:
        return (
            run_id
            for run_id, at in self.told_end_at.items()
            if at > listening.at and self.projects[run_id] == listening.project
        )

    def _publish(self, line: Line) -> None:
        if line.outcome is Outcome.INVOKED:
            self.projects[line.run_id] = line.project
            if Status(line.status) in TERMINAL:
                self.told_end_at.setdefault(line.run_id, line.at)
        elif line.outcome is Outcome.OK:
            self.acknowledged[line.event_id] = line
            self.report.counts["events acknowledged"] += 1
            self.report.counts["of these by the spool"] += line.spooled
        else:
            what = "runs tracked" if line.detail == "tracked" else "publishes of unknown outcome"
            self.report.counts[what] += 1

    def _call(self, line: Line) -> None:
        key = line.who, line.op
        if line.outcome is Outcome.INVOKED:
            known = self.known.get(line.run_id)
            floor = (known.rank, known.was_pushed) if known is not None else (-1, False)
            self._floors[key] = (*floor, line.after)
            return
        least, was_pushed, after = self._floors.pop(key, (-1, False, ""))
        self.report.counts[f"{line.do}s answered" if line.outcome is Outcome.OK else f"{line.do}s unanswered"] += 1
        if line.outcome is Outcome.UNKNOWN:
            return
        if line.detail.startswith("cursor_lost"):
            self.report.broken(CURSOR_KEPT, f"{line.who}: {line.run_id}: {line.detail}")
            return
        seen = rank(line.status)
        if seen < least:
            self.report.broken(
                READABLE if was_pushed else NO_STEP_BACK,
                f"{line.who} got {line.run_id} as {line.status or 'unknown'} when more had been seen of it",
            )
        if after and seen < rank(after):
            self.report.broken(READ_YOUR_WRITES, f"{line.who} got {line.run_id} as {line.status} after {after}")
        if line.status:
            self._learn(line.run_id, line.status, line.at, was_pushed=False)

    def _push(self, line: Line) -> None:
        self.report.counts["pushes heard"] += 1
        self._learn(line.run_id, line.status, line.at, was_pushed=True)
        listening = self.subscriptions.get(line.who)
        if listening is None:
            return
        seen = rank(line.status)
        if seen < listening.ranks.get(line.run_id, -1):
            self.report.broken(IN_ORDER, f"{line.who} was pushed {line.run_id} as {line.status} after its end")
        listening.ranks[line.run_id] = seen
        if seen == 2:
            listening.ended.add(line.run_id)

    def _learn(self, run_id: str, status: str, at: int, *, was_pushed: bool) -> None:
        known = self.known.get(run_id)
        if known is None:
            known = self.known[run_id] = Known()
            known.first_at = at
        if rank(status) > known.rank:
            known.rank, known.was_pushed = rank(status), was_pushed
        if known.rank == 2 and not known.end:
            known.end, known.ended_at = status, at
        elif rank(status) == 2 and known.end != status:
            self.report.broken(ONE_END, f"{run_id} was seen as {known.end}, and as {status}")

    def _list(self, line: Line) -> None:
        key = line.who, line.op
        if line.outcome is Outcome.INVOKED:
            self._asked_at[key] = line.at
            return
        asked_at = self._asked_at.pop(key)
        self.report.counts["walks answered" if line.outcome is Outcome.OK else "walks unanswered"] += 1
        if line.outcome is Outcome.OK:
            self._walks.append((asked_at, line))
            for seen in line.runs:
                self._learn(seen.run_id, seen.status, line.at, was_pushed=False)

    def _judge_walks(self, created_ms: Mapping[str, int]) -> None:
        by_project: dict[str, list[str]] = {}
        for run_id in created_ms:
            by_project.setdefault(self.projects.get(run_id, ""), []).append(run_id)
        for run_ids in by_project.values():
            run_ids.sort(key=lambda run_id: -created_ms[run_id])
        for asked_at, line in self._walks:
            shown = [seen.run_id for seen in line.runs]
            self.report.counts["runs listed"] += len(shown)
            if len(set(shown)) < len(shown):
                self.report.broken(LISTED, f"{line.who} was shown a run twice in {line.project}")
            last_ms = -1 if line.is_whole else min((created_ms.get(r, 0) for r in shown), default=0)
            due = set()
            for run_id in by_project.get(line.project, ()):
                if created_ms[run_id] <= last_ms:
                    break
                known = self.known.get(run_id)
                if known is not None and self._was_due(known, asked_at, line.statuses):
                    due.add(run_id)
            for run_id in due - set(shown):
                self.report.broken(LISTED, f"{line.who} was not shown {run_id} of {line.project} {line.statuses}")

    def _was_due(self, known: Known, asked_at: int, statuses: tuple[str, ...]) -> bool:
        if not statuses:
            return known.first_at < asked_at
        return bool(known.end) and known.ended_at < asked_at and known.end in statuses
