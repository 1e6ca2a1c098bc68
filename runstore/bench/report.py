"""The report: what was measured, on what, as text, as JSON and as a plot."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from runstore.bench.figures import Check, Found, Series

_PACKAGES: Final = ("runstore", "redis", "hiredis", "aiohttp", "uvloop", "msgspec")


class Told(msgspec.Struct, kw_only=True):
    """One row with what was found, or why nothing was."""

    name: str
    title: str
    took_s: float = 0.0
    found: Found = msgspec.field(default_factory=Found)
    failure: str | None = None


class Report(msgspec.Struct, kw_only=True):
    """All of it."""

    made_at: str
    machine: str
    server: str
    versions: dict[str, str]
    rounds: int
    scale: float
    rows: list[Told] = msgspec.field(default_factory=list)


def begin(server: str, *, rounds: int, scale: float) -> Report:
    """Begin a report of this machine."""
    return Report(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        machine=_machine(),
        server=server,
        versions={
            "python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _version(name))},
        },
        rounds=rounds,
        scale=scale,
    )


def head(report: Report) -> str:
    """Say in words what was measured on."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    size = f"{report.rounds} rounds, {report.scale:.0%} of the full size"
    return (
        f"{report.machine}; {report.server}; {versions}.\n{size}, {report.made_at}: medians, and the range in brackets."
    )


def row_text(told: Told) -> str:
    """Write one row as text."""
    lines = [f"{told.name}: {told.title}"]
    if told.failure is not None:
        lines.append(f"  failed: {told.failure}")
    lines += [f"  {_series(series)}" for series in told.found.series]
    lines += [f"  {_check(check)}" for check in told.found.checks]
    lines += [f"  {note}" for note in told.found.notes]
    lines += [f"  skipped: {reason}" for reason in told.found.skipped]
    return "\n".join(lines)


def number(value: float) -> str:
    """Write a number with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _series(series: Series) -> str:
    name = series.label if series.is_ours else f"({series.label})"
    return f"{name:<44} {_spread(series.values):>28} {series.unit}"


def _check(check: Check) -> str:
    verdict = "reached" if check.is_met else "MISSED"
    bound = "at most" if check.at_most else "at least"
    return f"{'→ ' + check.what:<44} {_spread(check.values):>28}   goal: {bound} {number(check.limit)}: {verdict}"


def _spread(values: tuple[float, ...]) -> str:
    middle = number(median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def _machine() -> str:
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} × {model}, {platform.system()} {platform.release()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
