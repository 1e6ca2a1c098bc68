"""How a run looks to people."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from runstore.cli.screen import Screen, Words
from runstore.core.status import Status

if TYPE_CHECKING:
    from runstore.client import ListedRun, Output, Run

STYLES: Final = {
    Status.PENDING: "dim",
    Status.RUNNING: "cyan",
    Status.SUCCESS: "green",
    Status.FAILED: "red",
    Status.TIMED_OUT: "yellow",
    Status.CANCELLED: "magenta",
}
_LABEL: Final = 9
_TAIL_LINES: Final = 20
_SHA: Final = 12


def coloured(status: Status) -> tuple[str, str]:
    """Return a status with its style."""
    return status.value, STYLES[status]


def show_run(screen: Screen, run: "Run") -> None:
    """Write all there is to say of one run."""
    _row(screen, "run", run.run_id, (f"  #{run.run_number}" if run.run_number is not None else "", "dim"))
    _row(screen, "project", run.project_name)
    _row(screen, "status", coloured(run.status))
    if run.commit_sha is not None:
        _row(screen, "commit", run.commit_sha)
    if run.started_at is not None:
        _row(screen, "started", run.started_at)
    if run.finished_at is not None:
        _row(screen, "finished", run.finished_at, (took(run), "dim"))
    if run.error_message is not None:
        _row(screen, "error", (run.error_message, "red"))
    if run.is_terminal and run.output is None and run.started_at is not None:
        _row(screen, "logs", f"runstore logs {run.run_id[:8]}")
    if run.output is not None:
        _show_output(screen, run.output)
    if run.truncated:
        _row(
            screen, "", ("the output is over 1 MiB and was cut; `runstore get RUN --output NAME` has all of it", "dim")
        )


def took(run: "Run | ListedRun") -> str:
    """Say in brackets how long a run took; empty where that is not known."""
    if run.started_at is None or run.finished_at is None:
        return ""
    passed = datetime.fromisoformat(run.finished_at) - datetime.fromisoformat(run.started_at)
    return f"  (took {passed.total_seconds():.2f} s)"


def rows(runs: "Sequence[ListedRun]") -> list[list[Words]]:
    """Return the rows of a listing: id, number, project, status, created, commit, tags or error."""
    return [
        [
            run.run_id,
            str(run.run_number) if run.run_number is not None else "",
            run.project_name,
            coloured(run.status),
            run.created_at[:19].replace("T", " "),
            (run.commit_sha or "")[:_SHA],
            ((run.error_message or " ".join(run.tags))[:60], "dim"),
        ]
        for run in runs
    ]


def news(run: "Run") -> list[Words]:
    """Return one line about a run that was pushed."""
    more = took(run) if run.is_terminal else ""
    why = f"  {run.error_message}" if run.error_message else ""
    return [run.run_id, "  ", coloured(run.status), ("  " + run.project_name, "dim"), (more, "dim"), why]


def pretty(value: Any) -> str:
    """Write a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _show_output(screen: Screen, output: "Output") -> None:
    if output.exit_code is not None:
        _row(screen, "exit code", str(output.exit_code))
    _row(screen, "outputs", msgspec.json.encode(output.outputs).decode())
    for name, text in (("stdout", output.stdout), ("stderr", output.stderr)):
        told = text.rstrip("\n").split("\n") if text else []
        if len(told) > _TAIL_LINES:
            _row(screen, name, (f"the last {_TAIL_LINES} of {len(told)} lines", "dim"))
        for place, line in enumerate(told[-_TAIL_LINES:]):
            _row(screen, name if place == 0 and len(told) <= _TAIL_LINES else "", line)


def _row(screen: Screen, label: str, *words: Words) -> None:
    screen.line((label.ljust(_LABEL) + "  ", "dim"), *words)
