"""The checker: one pass over the history, then the final store, by all rules. Pure, but for reading the files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.chaos.heard import OF_TIME, Ears
from tests.chaos.history import Line, read_history
from tests.chaos.report import Report
from tests.chaos.stored import ENDED, Rest, check_store

EVERYSEC_NS: Final = 2_500_000_000
"""How old a write may be that a power cut takes under `everysec`: Redis waits up to two seconds for a slow fsync."""


def check(history: Path, final: Rest, *, is_exact: bool = True, loses: bool = False) -> Report:
    """Check a run by what its processes wrote and what it left in the store."""
    return check_lines(read_history(history), final, is_exact=is_exact, loses=loses)


def check_lines(lines: Iterable[Line], final: Rest, *, is_exact: bool = True, loses: bool = False) -> Report:
    """Check a run by its history, in the order of time, and its store.

    `loses`: power cuts may take what was written in the last moment, and with it whatever somebody was told of it.
    """
    report = Report()
    ears = Ears(report)
    for line in lines:
        report.counts["lines of history"] += 1
        ears.take(line)
    ended = {run_id: run.status.value for run_id, run in final.runs.items() if run.is_terminal}
    created = {run_id: run.created_ms for run_id, run in final.runs.items()}
    ears.finish(ended, created)

    def may_lose(line: Line) -> bool:
        # what a disk of the publisher's took was given to Redis some time later, and is then as safe as there
        latest = float("inf") if line.spooled else line.at + EVERYSEC_NS
        return loses and any(line.at - EVERYSEC_NS // 5 <= cut <= latest for cut in ears.cuts_at)

    check_store(final, ears.acknowledged, report, is_exact=is_exact, may_lose=may_lose)
    if loses:
        report.excuse(*OF_TIME, ENDED)
    return report
