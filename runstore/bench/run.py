"""Run rows of the table one after another."""

import asyncio
import time
from collections.abc import Callable, Sequence

import uvloop

from runstore.bench.report import Report, Told, begin
from runstore.bench.stage import opened
from runstore.bench.table import load


def run(
    names: Sequence[str],
    *,
    rounds: int,
    scale: float,
    redis_url: str | None = None,
    tell: Callable[[Report, Told | None], None],
) -> Report:
    """Measure the rows; `tell` hears of the report when it begins (None), and of each row as it comes.

    A row that fails is told as such, and the others go on.
    """
    with opened(rounds=rounds, scale=scale, redis_url=redis_url) as stage:
        report = begin(stage.server, rounds=rounds, scale=scale)
        tell(report, None)
        for name in names:
            row, began = load(name), time.perf_counter()
            told = Told(name=row.name, title=row.title)
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    told.found = runner.run(row.measure(stage))  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 - what it was is told, and the others are worth having
                told.failure = f"{type(error).__name__}: {error}"
            told.took_s = time.perf_counter() - began
            report.rows.append(told)
            tell(report, told)
    return report
