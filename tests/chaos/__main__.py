"""`python -m tests.chaos`: one chaos run, by a seed that can be played again; with `--soak` one after another."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import INEXACT, USUAL, Kind
from tests.chaos.runner import run_chaos
from tests.chaos.site import Shape
from tests.chaos.soak import Sums, shaped, soak, turns


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=30, help="how long things go wrong in a run")
    parser.add_argument(
        "--faults",
        help=f"kinds of faults, of {', '.join(Kind)}; none for none; unset: all but {', '.join(sorted(INEXACT))}",
    )
    parser.add_argument("--gap", type=float, default=0.8, help="mean seconds between the beginnings of two faults")
    parser.add_argument("--topology", choices=("single", "sentinel", "cluster"))
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always")
    parser.add_argument("--durability", choices=("acknowledged", "fsynced", "replicated"))
    parser.add_argument("--publishers", type=int, default=2)
    parser.add_argument("--width", type=int, default=24, help="runs that a publisher tells of at the same time")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--rate", type=float, default=300, help="events a second of each publisher at most")
    parser.add_argument("--folder", type=Path, help="where to keep history and logs; unset: a temporary folder")
    soaking = parser.add_argument_group("soak: run after run, seed after seed, until all of these sums are reached")
    soaking.add_argument("--soak", action="store_true", help="all topologies in turn, unless they are given")
    soaking.add_argument("--events", type=int, default=1_000_000, help="events acknowledged")
    soaking.add_argument("--least-faults", type=int, default=1000)
    soaking.add_argument("--power-cuts", type=int, default=100)
    soaking.add_argument("--minutes", type=float, default=60, help="after which no other run begins")
    return parser.parse_args()


def main() -> int:
    """Run, print what happened, and return 0 if no promise was broken."""
    said = _options()
    shape = Shape(
        seed=said.seed,
        fsync=said.fsync,
        publishers=said.publishers,
        width=said.width,
        workers=said.workers,
        subscribers=said.subscribers,
        rate=said.rate,
    )
    shape = shaped(shape, said.topology or "single", said.durability)
    kinds = [Kind(word) for word in (said.faults or ",".join(USUAL)).split(",") if word != "none"]
    return _soak(said, shape, kinds) if said.soak else _run(said, shape, kinds)


def _soak(said: argparse.Namespace, shape: Shape, kinds: list[Kind]) -> int:
    folder = said.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    aims = Sums(events=said.events, faults=said.least_faults, cuts=said.power_cuts)
    plan = turns(shape, is_mixed=said.topology is None and said.faults is None, kinds=kinds)
    return not soak(folder, plan, aims, seconds=said.seconds, gap_s=said.gap, most_s=said.minutes * 60)


def _run(said: argparse.Namespace, shape: Shape, kinds: list[Kind]) -> int:
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
