"""`python -m tests.attack [--inputs N] [--seed S] [KIND …]`: attack the real thing, print what was tried, judge it."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.attack.kinds.table import ATTACKS
from tests.attack.run import attack
from tests.attack.table import write, write_failures


def main(words: list[str]) -> int:
    """Run what was asked for; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(ATTACKS)}; all unless told")
    parser.add_argument("--inputs", type=int, default=100_000, help="how many in all; 100,000 unless told")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to do the same again")
    parser.add_argument("--only", type=int, nargs="+", default=(), help="numbers of inputs of one kind to try again")
    parser.add_argument("--keep", type=Path, help="a folder for the data and the logs, which is left there")
    asked = parser.parse_args(words)
    for name in asked.kinds:
        if name not in ATTACKS:
            parser.error(f"there is no kind {name!r}; there are {', '.join(ATTACKS)}")
    if asked.only and len(asked.kinds) != 1:
        parser.error("--only goes with one kind")
    chosen = [ATTACKS[name] for name in asked.kinds or ATTACKS]
    whole = sum(kind.share for kind in chosen)
    inputs = round(asked.inputs / whole) if asked.kinds and whole else asked.inputs
    seed = asked.seed if asked.seed is not None else time.time_ns() % 1_000_000
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="runstore-attack-") as temporary:
        folder = (asked.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(attack(folder, chosen, inputs=inputs, seed=seed, only=asked.only))
    print(write(outcome, ATTACKS, seed=seed))
    if wrong := write_failures(outcome):
        print(f"\nWRONG:\n{wrong}")
        return 1
    print(f"\nNothing was wrong with any of {outcome.inputs:,} inputs.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
