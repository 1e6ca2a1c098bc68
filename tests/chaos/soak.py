"""A soak: chaos runs one after another, seed after seed, until enough was acknowledged, injected and cut.

Each run has a site, a history and a check of its own, so that what is held in memory is one run's, however long the
soak. The first run that breaks a promise ends it, and its folder is kept.
"""

import asyncio
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from tests.chaos.plan import USUAL, Kind
from tests.chaos.runner import Ran, run_chaos
from tests.chaos.site import Shape

_HEAD: Final = (
    "| seed | topology | seconds | faults | power cuts | events acknowledged | first by a spool | pushes heard "
    "| rebuild checks | lost | contradictory | memory |"
)
_CUTS: Final = (Kind.POWER, Kind.SPOOL_POWER)
_TURNS: Final = ("single", "single", "single", "sentinel", "single", "single", "cluster")
"""What the runs of a soak are of, in turn. Not of poison: a log that is written anew breaks rules by itself."""


class Sums(msgspec.Struct, kw_only=True):
    """What runs come to, or are to come to."""

    events: int = 0
    faults: int = 0
    cuts: int = 0

    def add(self, ran: Ran) -> None:
        """Take a run in."""
        self.events += ran.report.counts["events acknowledged"]
        self.faults += sum(ran.injected.values())
        self.cuts += cuts_of(ran)

    def reach(self, aims: "Sums") -> bool:
        """Whether nothing is missing of what is aimed at."""
        return self.events >= aims.events and self.faults >= aims.faults and self.cuts >= aims.cuts


class Turn(NamedTuple):
    """The next run of a soak."""

    shape: Shape
    kinds: list[Kind]


def turns(first: Shape, *, is_mixed: bool, kinds: list[Kind]) -> Iterator[Turn]:
    """Yield the runs of a soak, from the seed of the first on; mixed ones are of every topology in turn."""
    seed = first.seed
    while True:
        for of in _TURNS:
            if not is_mixed:
                yield Turn(msgspec.structs.replace(first, seed=seed), kinds)
            else:
                yield Turn(shaped(msgspec.structs.replace(first, seed=seed), of), list(USUAL))
            seed += 1


def shaped(shape: Shape, topology: str, durability: str | None = None) -> Shape:
    """Return a shape for a topology, with what its promises need."""
    return msgspec.structs.replace(
        shape,
        topology=topology,
        # who is promoted need not be whom one acknowledgement came from: all that may be promoted must have it
        min_replicas=2 if topology == "sentinel" else 1,
        durability=durability or ("acknowledged" if topology == "single" else "replicated"),
    )


def cuts_of(ran: Ran) -> int:
    """Count the power cuts of a run, of Redis and of the spools' disk."""
    return sum(number for what, number in ran.injected.items() if what.partition(" of ")[0] in _CUTS)


def soak(folder: Path, plan: Iterator[Turn], aims: Sums, *, seconds: float, gap_s: float, most_s: float) -> bool:
    """Run until the aims are reached, a promise is broken or the time is over; say whether all promises held.

    Units: `seconds` a run, in which things go wrong; `most_s` in all, after which no other run begins.
    """
    began, sums, runs = monotonic(), Sums(), 0
    print(_HEAD, "|---" * (_HEAD.count("|") - 1) + "|", sep="\n", flush=True)
    while not sums.reach(aims) and monotonic() - began < most_s:
        turn = next(plan)
        place = folder / f"seed-{turn.shape.seed}"
        ran = asyncio.run(run_chaos(place, turn.shape, seconds=seconds, kinds=turn.kinds, gap_s=gap_s))
        sums.add(ran)
        runs += 1
        print(row(turn, ran, seconds), flush=True)
        if ran.report.violations:
            print("\n".join(ran.report.lines()))
            print(f"BROKEN: all of it is kept in {place}", flush=True)
            return False
        shutil.rmtree(place)
    word = "the sums are reached" if sums.reach(aims) else f"NOT the sums that were asked for ({aims})"
    print(
        f"{runs} runs in {monotonic() - began:.0f} s: {sums.events:,} events acknowledged, {sums.faults:,} faults, "
        f"{sums.cuts:,} power cuts, 0 lost, 0 contradictory; {word}",
        flush=True,
    )
    return True


def row(turn: Turn, ran: Ran, seconds: float) -> str:
    """Write a run as a line of the table. Units: `memory` is the most that the runner ever took, in MiB."""
    counts = ran.report.counts
    lost = counts["acknowledged events lost"]
    cells = (
        turn.shape.seed,
        turn.shape.topology + (", poison" if Kind.POISON in turn.kinds else ""),
        f"{seconds:g}",
        sum(ran.injected.values()),
        cuts_of(ran),
        f"{counts['events acknowledged']:,}",
        f"{counts['of these by the spool']:,}",
        f"{counts['pushes heard']:,}",
        counts["rebuild checks"],
        lost,
        len(ran.report.violations) - min(lost, len(ran.report.violations)),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )
    return "| " + " | ".join(map(str, cells)) + " |"
