"""The checker: one pass over the history, then the final store, by all rules. Pure, but for reading the files."""

from collections.abc import Iterable
from pathlib import Path

from tests.chaos.heard import Ears
from tests.chaos.history import Line, read_history
from tests.chaos.report import Report
from tests.chaos.stored import Rest, check_store


def check(history: Path, final: Rest, *, is_exact: bool = True) -> Report:
    """Check a run by what its processes wrote and what it left in the store."""
    return check_lines(read_history(history), final, is_exact=is_exact)


def check_lines(lines: Iterable[Line], final: Rest, *, is_exact: bool = True) -> Report:
    """Check a run by its history, in the order of time, and its store."""
    report = Report()
    ears = Ears(report)
    for line in lines:
        report.counts["lines of history"] += 1
        ears.take(line)
    ended = {run_id: run.status.value for run_id, run in final.runs.items() if run.is_terminal}
    created = {run_id: run.created_ms for run_id, run in final.runs.items()}
    ears.finish(ended, created)
    check_store(final, ears.acknowledged, report, is_exact=is_exact)
    return report
