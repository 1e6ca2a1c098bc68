"""The plan: from a seed, what goes wrong and when. Pure, so that a seed that failed can be played again."""

import random
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "kill"
    FREEZE = "freeze"
    DELAY = "delay"
    CUT = "cut"
    HALF_OPEN = "half-open"
    LOST_REPLY = "lost-reply"
    TRICKLE = "trickle"
    POWER = "power"
    SPOOL_POWER = "spool-power"
    DISK_FULL = "disk-full"
    CLOCK = "clock"
    OOM = "oom"
    SCRIPT_FLUSH = "script-flush"
    LOADING = "loading"
    POISON = "poison"
    FAIL_OVER = "fail-over"


NETWORK: Final = frozenset({Kind.DELAY, Kind.CUT, Kind.HALF_OPEN, Kind.LOST_REPLY, Kind.TRICKLE})
OF_REDIS: Final = frozenset({Kind.POWER, Kind.CLOCK, Kind.OOM, Kind.SCRIPT_FLUSH, Kind.LOADING, Kind.POISON})
OF_MACHINES: Final = frozenset({Kind.POWER, Kind.SPOOL_POWER, Kind.DISK_FULL, Kind.CLOCK})
"""What needs the shim."""

INEXACT: Final = frozenset({Kind.POISON})
"""What has the log written anew: counts and times are then not those of one fold."""

USUAL: Final = sorted(set(Kind) - INEXACT)
"""What goes wrong unless told."""

_WEIGHTS: Final = dict.fromkeys(Kind, 6) | {
    Kind.KILL: 30,
    Kind.FREEZE: 14,
    Kind.POWER: 12,
    Kind.LOADING: 3,
    Kind.SPOOL_POWER: 3,
    Kind.FAIL_OVER: 12,
}
_LONGEST_S: Final = {Kind.FREEZE: 5.0, Kind.HALF_OPEN: 5.0, Kind.KILL: 1.5, Kind.POWER: 1.0, Kind.SCRIPT_FLUSH: 0.1}


class Fault(NamedTuple):
    """One fault. `amount` is from 0 to 1, for what can be more or less."""

    at_s: float
    kind: Kind
    role: str
    for_s: float
    amount: float


def make_plan(
    seed: int, seconds: float, kinds: Iterable[Kind], roles: Mapping[str, Sequence[str]], *, gap_s: float = 0.8
) -> list[Fault]:
    """Make a plan. `roles` says which roles a kind of fault can befall; no role has two faults at a time.

    Units: `gap_s` is the mean time between the beginnings of two faults.
    """
    chance = random.Random(seed)
    known = sorted(kind for kind in kinds if roles.get(kind))
    busy_until: dict[str, float] = {}
    faults: list[Fault] = []
    at_s = 0.5
    while known and at_s < seconds:
        (kind,) = chance.choices(known, [_WEIGHTS[kind] for kind in known])
        role = chance.choice(sorted(roles[kind]))
        for_s = chance.uniform(0.05, _LONGEST_S.get(kind, 3.0))
        fault = Fault(round(at_s, 3), kind, role, round(min(for_s, seconds - at_s), 3), round(chance.random(), 3))
        at_s += chance.expovariate(1 / gap_s)
        if busy_until.get(role, 0) <= fault.at_s:
            faults.append(fault)
            busy_until[role] = fault.at_s + fault.for_s + 0.3
    return faults
