"""`python -m tests.chaos`: one chaos run, by a seed that can be played again."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import INEXACT, USUAL, Kind
from tests.chaos.runner import run_chaos
from tests.chaos.site import Shape


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument(
        "--faults",
        default=",".join(USUAL),
        help=f"kinds of faults, of {', '.join(Kind)}; none for none; unset: all but {', '.join(sorted(INEXACT))}",
    )
    parser.add_argument("--gap", type=float, default=0.8, help="mean seconds between the beginnings of two faults")
    parser.add_argument("--topology", choices=("single", "sentinel", "cluster"), default="single")
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always")
    parser.add_argument("--durability", choices=("acknowledged", "fsynced", "replicated"))
    parser.add_argument("--publishers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--rate", type=float, default=300, help="events a second of each publisher at most")
    parser.add_argument("--folder", type=Path, help="where to keep history and logs; unset: a temporary folder")
    return parser.parse_args()


def main() -> int:
    """Run once, print what happened, and return 0 if no promise was broken."""
    said = _options()
    kinds = [Kind(word) for word in said.faults.split(",")] if said.faults != "none" else []
    shape = Shape(
        seed=said.seed,
        fsync=said.fsync,
        topology=said.topology,
        # who is promoted need not be whom one acknowledgement came from: all that may be promoted must have it
        min_replicas=2 if said.topology == "sentinel" else 1,
        durability=said.durability or ("acknowledged" if said.topology == "single" else "replicated"),
        publishers=said.publishers,
        workers=said.workers,
        subscribers=said.subscribers,
        rate=said.rate,
    )
    print(f"seed {said.seed}: {said.seconds:g} s, appendfsync {said.fsync}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = said.folder or Path(temporary)
        ran = asyncio.run(run_chaos(folder, shape, seconds=said.seconds, kinds=kinds, gap_s=said.gap))
    print(f"injected {sum(ran.injected.values())} faults; power cuts took {ran.bytes_cut} bytes")
    for what, number in sorted((ran.injected | ran.restarted).items()):
        print(f"  {what:.<44} {number:>10}")
    print("checked")
    print("\n".join(ran.report.lines()))
    print(f"{'BROKEN' if ran.report.violations else 'all promises held'}; {ran.seconds} s; --seed {said.seed}")
    return bool(ran.report.violations)


if __name__ == "__main__":
    sys.exit(main())
