"""One run of attacks: each kind in turn, and after each a look at every process, its log, and a healthy run."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.attack import Attack, Plan, Tally
from tests.attack.site import Site, sited
from tests.attack.verdict import Change
from tests.attack.watched import Reading
from tests.cli.processes import GONE_S

SETTLE_S = 30.0


@dataclass
class Outcome:
    """What a run came to."""

    tallies: list[Tally] = field(default_factory=list)
    changes: dict[str, list[Change]] = field(default_factory=dict)
    open_files: int = 0
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return sum(tally.inputs for tally in self.tallies)

    @property
    def failures(self) -> list[str]:
        return [line for tally in self.tallies for line in tally.failures]


async def attack(
    folder: Path,
    attacks: Sequence[Attack],
    *,
    inputs: int,
    seed: int,
    only: Sequence[int] = (),
    broken_by: Mapping[str, str] | None = None,
) -> Outcome:
    """Bring everything up, attack it, and bring it down."""
    outcome, began = Outcome(), time.monotonic()
    with_worker = any(not kind.share for kind in attacks)
    async with sited(folder, seed=seed, with_worker=with_worker, broken_by=broken_by) as site:
        outcome.open_files = site.open_files
        await _warm_up(site, attacks, seed)
        for kind in attacks:
            tally = Tally(kind=kind.name)
            outcome.tallies.append(tally)
            before = _read(site)
            started = time.monotonic()
            try:
                await kind.run(site, tally, Plan(kind.name, kind.inputs_of(inputs), seed, only))
            except Exception as error:
                tally.fail(f"the attack itself was broken off: {_innermost(error)!r}")
            tally.seconds = time.monotonic() - started
            outcome.changes[kind.name] = await _look(site, tally, before)
            if not all(process.lives for process in site.processes):
                break
        await _bring_down(site, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


async def _warm_up(site: Site, attacks: Sequence[Attack], seed: int) -> None:
    """Do a little of everything first, so that what is imported and cached once is no growth."""
    for kind in attacks:
        if kind.share and kind.warms_up:
            await kind.run(site, Tally(kind="warm-up"), Plan(f"{kind.name} warm-up", 50, seed))
    if (wrong := await site.healthy()) is not None:
        raise AssertionError(f"before any attack: {wrong}")


def _read(site: Site) -> dict[str, Reading]:
    return {process.name: reading for process in site.processes if (reading := process.read()) is not None}


async def _look(site: Site, tally: Tally, before: dict[str, Reading]) -> list[Change]:
    """See what became of everything; what was begun has its time to end."""
    wrong = await site.healthy()
    if wrong is not None:
        tally.fail(wrong)
    deadline = time.monotonic() + SETTLE_S
    while True:
        after = _read(site)
        changes = [Change(name, before[name], after[name]) for name in before if name in after]
        if all(change.is_settled() for change in changes) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    for change in changes:
        for line in change.failures(tally):
            tally.fail(line)
    for process in site.processes:
        if not process.lives:
            tally.fail(f"the {process.name} has ended")
        if (trouble := process.new_trouble()) is not None:
            tally.fail(f"the log of the {process.name} tells of trouble", told=trouble)
    return changes


async def _bring_down(site: Site, outcome: Outcome) -> None:
    """Stop the services as an operator would: they must end well after all that, and have logged no token."""
    last = outcome.tallies[-1]
    for name, service in (("worker", site.worker), ("gateway", site.gateway)):
        if service is None or service.process.poll() is not None:
            continue
        try:
            code = await asyncio.to_thread(service.end)
        except Exception as error:
            last.fail(f"the {name} did not end within {GONE_S:g} s of SIGTERM: {error!r}")
        else:
            if code:
                last.fail(f"the {name} ended with {code} after SIGTERM")
    for process in site.processes:
        if (trouble := process.new_trouble()) is not None:
            last.fail(f"the log of the {process.name} tells of trouble at its end", told=trouble)
        for whose, token in site.tokens.items():
            if token.encode() in process.logged():
                last.fail(f"the log of the {process.name} holds the token of {whose}")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
