"""The common shape of all attacks: a name, how many inputs, what is checked, and how it is done.

Every input has a number. Its randomness comes from the run's seed, the kind and that number alone, so that one input
can be tried again without those before it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attack.site import Site

SHOWN_FAILURES = 5
INTERNAL = "an answer of 500"


@dataclass(frozen=True)
class Plan:
    """What one attack is to do: so many inputs, by this seed; `only` are the numbers of those to try again."""

    kind: str
    inputs: int
    seed: int
    only: Sequence[int] = ()

    def numbers(self, most: int | None = None) -> Iterator[int]:
        """Count the inputs to try, as far as they are not picked by number."""
        inputs = self.inputs if most is None else min(self.inputs, most)
        yield from self.only or range(inputs)

    def random(self, *of: object) -> Random:
        """Return the randomness of one input, or of whatever else is named."""
        return Random(":".join(map(str, (self.seed, self.kind, *of))))


@dataclass(kw_only=True)
class Tally:
    """What was tried, what came back, and what was wrong with it."""

    kind: str
    inputs: int = 0
    sent_bytes: int = 0
    held_bytes: int = 0
    """What the gateway had to hold at one time because so many came at once; its allocator may keep that."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def tried(self, answer: object, sent_bytes: int = 0, inputs: int = 1) -> None:
        """Count inputs, and how they were answered."""
        self.inputs += inputs
        self.sent_bytes += sent_bytes
        self.answers[str(answer)] += inputs

    def fail(self, what: str, number: int | None = None, sent: object = None, told: object = None) -> None:
        """Take note of something that must not be; `what` is a sentence that is the same for the same mistake."""
        self.wrong[what] += 1
        if self.wrong[what] <= SHOWN_FAILURES:
            again = f" [{self.kind} --only {number}]" if number is not None else ""
            about = "".join(
                f"\n      {word}: {repr(shown)[:600]}" for word, shown in (("sent", sent), ("told", told)) if shown
            )
            self.failures.append(f"{self.kind}: {what}{again}{about}")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One kind. `share` is its part of a run's inputs; where that is 0, an input is a whole run, and there are `most`.

    `warms_up`: a little of it is done before anything is measured.
    """

    name: str
    checks: str
    run: Callable[["Site", Tally, Plan], Awaitable[None]]
    share: float = 0.0
    least: int = 1
    most: int | None = None
    warms_up: bool = True

    def inputs_of(self, total: int) -> int:
        """Say how many inputs this kind has in a run of so many."""
        wanted = round(self.share * total) if self.share else round((self.most or 1) * min(1.0, total / 100_000))
        return max(self.least, wanted if self.most is None else min(wanted, self.most))


async def each(numbers: Iterator[int], at_once: int, deed: Callable[[int], Awaitable[None]]) -> None:
    """Do something for each number, so many at a time."""

    async def work() -> None:
        for number in numbers:
            await deed(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
