"""`runstore bench`: the table of figures, each beside its yardstick, measured on this machine."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from runstore.cli.exits import Trouble
from runstore.cli.screen import err, out


def bench(
    *rows: Annotated[str, Parameter(help="Rows to measure, by name; all unless told.")],
    quick: Annotated[bool, Parameter(help="A tenth of the size: a look, no measurement to cite.")] = False,
    rounds: Annotated[int, Parameter(help="How often each thing is measured, in turns with its yardstick.")] = 3,
    redis_url: Annotated[
        str | None, Parameter(help="A server to measure on instead of one of its own. ALL IT HOLDS IS DELETED.")
    ] = None,
    json: Annotated[bool, Parameter(name="--json", help="Print JSON, once all is measured.")] = False,
    save: Annotated[Path | None, Parameter(help="Folder for bench.txt, bench.json and bench.svg.")] = None,
) -> int:
    """Measure runstore beside its yardsticks on this machine, and print the table."""
    from runstore.bench.plot import draw
    from runstore.bench.report import Report, Told, head, row_text
    from runstore.bench.run import run
    from runstore.bench.table import NAMES

    for name in rows:
        if name not in NAMES:
            raise Trouble(f"there is no row {name}: the rows are {', '.join(NAMES)}")
    if rounds < 1:
        raise Trouble(f"--rounds {rounds}: once at least")
    for number in (signal.SIGTERM, signal.SIGHUP):  # what was started must be ended
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    texts: list[str] = []

    def tell(report: Report, told: Told | None) -> None:
        texts.append(row_text(told) if told is not None else head(report))
        for line in [*texts[-1].splitlines(), ""]:
            (err() if json else out()).line(line)

    report = run(rows or NAMES, rounds=rounds, scale=0.1 if quick else 1.0, redis_url=redis_url, tell=tell)
    whole = msgspec.json.encode(report)
    if json:
        out().json(whole)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / "bench.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        (save / "bench.json").write_bytes(msgspec.json.format(whole) + b"\n")
        (save / "bench.svg").write_text(draw(report), encoding="utf-8")
    return 0 if all(told.failure is None for told in report.rows) else 1
