"""`python -m tests.simulation --schedules 100000`: simulate the shells by so many seeds, and print what was checked.

`--seed N` plays one schedule again and prints all that was wrong with it.
"""

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import monotonic

from tests.simulation.scenarios import CHECKED, play_many

AT_ONCE = 500


def main() -> int:
    """Play, and return 1 where anything was wrong."""
    options = argparse.ArgumentParser(prog="python -m tests.simulation")
    options.add_argument("--schedules", type=int, default=100_000)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--seed", type=int, help="play this one only, and say all of it")
    options.add_argument("--processes", type=int, default=2)
    asked = options.parse_args()
    if asked.seed is not None:
        (outcome,) = play_many(asked.seed, 1)
        print(f"seed {outcome.seed}: {outcome.scenario}, {outcome.steps} steps, {outcome.faults} faults")
        print(*(outcome.wrong or ["all is well"]), sep="\n")
        return 1 if outcome.wrong else 0
    begun, counts, bad, steps, faults = monotonic(), Counter[str](), [], 0, 0
    firsts = range(asked.first, asked.first + asked.schedules, AT_ONCE)
    sizes = [min(AT_ONCE, asked.first + asked.schedules - first) for first in firsts]
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        for outcomes in pool.map(play_many, firsts, sizes):
            for outcome in outcomes:
                counts[outcome.scenario] += 1
                steps, faults = steps + outcome.steps, faults + outcome.faults
                if outcome.wrong:
                    bad.append(outcome)
                    print(f"seed {outcome.seed} ({outcome.scenario}): {outcome.wrong[0][:400]}", flush=True)
    shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{sum(counts.values())} schedules (seeds {asked.first} to {asked.first + asked.schedules - 1}): {shown}")
    print(f"{steps} steps, {faults} faults, in {monotonic() - begun:.0f} s")
    print(f"checked: {CHECKED}")
    print(f"{len(bad)} failed" + (": play one again by --seed" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
