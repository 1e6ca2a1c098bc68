"""What is told of each run, decided by its number alone, so that whoever watches knows what will come."""

import random
from itertools import count
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from runstore.core.ids import RunId
from runstore.core.partition import partition_of

PROJECTS: Final = 12
BLOCK: Final = 20
"""Runs that one subscription is about."""

_SPACE: Final = UUID("5d0c8f0e-6a3f-4a50-9d5e-3f6f2b8a7c11")
_WEIGHTS: Final = {
    "plain": 60,
    "failed": 12,
    "short": 8,
    "retried": 8,
    "large": 4,
    "contradicted": 6,
    "raced": 2,
    "tracked": 6,
}


class Told(NamedTuple):
    """One event of a story. Those with the same `turn` are told at once."""

    turn: int
    status: str
    attempt: int | None = None
    bytes: int = 0


STORIES: Final[dict[str, tuple[Told, ...]]] = {
    "plain": (Told(0, "running"), Told(1, "success", None, 40)),
    "failed": (Told(0, "running"), Told(1, "failed")),
    "short": (Told(0, "cancelled"),),
    "retried": (Told(0, "pending"), Told(1, "running", 1), Told(2, "running", 2), Told(3, "success", 2, 40)),
    "large": (Told(0, "running"), Told(1, "success", None, 60_000)),
    "contradicted": (Told(0, "running"), Told(1, "success", None, 40), Told(2, "failed"), Told(3, "success")),
    "raced": (Told(0, "running"), Told(1, "timed_out"), Told(1, "success", None, 40)),
    "tracked": (),
}
"""What becomes of a run, by the kind of its story."""


def run_id_of(seed: int, publisher: str, number: int) -> str:
    """Return the id of a publisher's n-th run."""
    return str(uuid5(_SPACE, f"{seed}:{publisher}:{number}"))


def project_of(number: int) -> str:
    """Return the project of a publisher's n-th run."""
    return f"chaos-{number % PROJECTS}"


def story_of(run_id: str) -> tuple[Told, ...]:
    """Return what is told of a run; nothing where the work is tracked, and told of by the publisher itself."""
    chance = random.Random(run_id)
    (kind,) = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    return STORIES[kind]


def block_of(seed: int, publisher: str, block: int) -> tuple[str, ...]:
    """Return the ids of a publisher's n-th block of runs."""
    return tuple(run_id_of(seed, publisher, number) for number in range(block * BLOCK, (block + 1) * BLOCK))


def sentinels(seed: int, partitions: int) -> list[tuple[str, str]]:
    """Return runs that are told last of all, one for each project and partition, with their projects.

    Pushes of one partition come in order: whoever has heard them has heard all there was.
    """
    found: dict[tuple[int, int], tuple[str, str]] = {}
    for number in count():
        run_id = run_id_of(seed, "sentinel", number)
        found.setdefault((number % PROJECTS, partition_of(RunId(run_id), partitions)), (run_id, project_of(number)))
        if len(found) == PROJECTS * partitions:
            break
    return list(found.values())
