"""`python -m tests.crashes`: go through every crash point of every short story, and print how many there were."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.crashes.points import Survey, survey_one
from tests.crashes.stories import STORIES_TOLD


def main() -> int:
    """Print what was gone through; return 1 where anything was wrong or missed."""
    pairs = [(name, role) for name, story in STORIES_TOLD.items() for role in story.roles]
    chosen = [pair for pair in pairs if all(word in pair[0] for word in sys.argv[1:])]
    total, failures = Survey(), []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for (name, role), found in zip(chosen, pool.map(survey_one, *zip(*chosen, strict=True)), strict=True):
            shown = f"{found.points:5} points, {found.met:5} met, {found.deaths:5} deaths"
            print(f"{name:38} {role:10} {shown}, {len(found.failures)} failures", flush=True)
            total = Survey(total.points + found.points, total.met + found.met, total.deaths + found.deaths)
            failures += [f"{name}: {failure}" for failure in found.failures]
    for failure in failures:
        print(failure[:600])
    share = f"{100 * total.met / total.points:.1f} %" if total.points else "none"
    print(f"{total.points} points, {share} met, {total.deaths} deaths, {len(failures)} failures")
    return 1 if failures or not 0 < total.points == total.met else 0


if __name__ == "__main__":
    sys.exit(main())
