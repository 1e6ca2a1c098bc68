"""What a seed makes of a world: who is there, what is told, and what goes wrong when."""

import gc
import logging
import traceback
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from runstore.core.ids import RunId
from tests.projector.builders import run_id_of
from tests.simulation.clock import simulated_clocks, time_of
from tests.simulation.loop import SimulatedLoop
from tests.simulation.world import PROJECTS, World

CHECKED = (
    "every hash, history, index, number, output, dead letter, counter and feed entry is one fold of the log; nothing "
    "is left over; what was acknowledged is in the log; run numbers are 1 … N; every listener heard every end, one "
    "end a run, readable when it was pushed, and no reset; no run was ended whose lease held; every run ended"
)
LATEST_FAULT = 250
CALM_S = 6.0
"""From when on messages are quick: whoever waits for a quiet time has it then."""
Told = list[tuple[RunId, str, dict[str, Any]]]
ENDS = ("success", "failed", "timed_out", "cancelled")


class Outcome:
    """What became of one schedule."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scenario = ""
        self.steps = 0
        self.faults = 0
        self.wrong: list[str] = []
        self.digest = ""


def race(world: World) -> None:
    """Two or three projectors on the same partitions, and publishers that contradict each other."""
    runs = _runs(world, 1 + world.chance.randrange(3))
    for number in range(2):
        world.begin(f"publisher {number}", world.publisher(_contradictions(world, runs)))
    for number in range(2 + world.chance.randrange(2)):
        is_greedy = world.chance.random() < 0.6
        world.begin(f"projector {number}", world.greedy_projector if is_greedy else world.projector)


def push(world: World) -> None:
    """A gateway, and clients that listen to runs and to a project while these go on."""
    runs = _runs(world, 1 + world.chance.randrange(3))
    told = [
        (run_id, status, {"numbered": True} | _output(world))
        for run_id in runs
        for status in ("pending", "running", world.chance.choice(ENDS))
    ]
    if world.chance.random() < 0.5:
        told.sort(key=lambda each: ("pending", "running").index(each[1]) if each[1] in ("pending", "running") else 2)
    world.begin("publisher", world.publisher(told))
    world.begin("projector 0", world.projector)
    if world.chance.random() < 0.3:
        world.begin("projector 1", world.projector)
    world.begin("gateway", world.serve_gateway)
    some = {run_id for run_id in runs if world.chance.random() < 0.7} or set(runs)
    events = world.chance.choice(("all", "terminal"))
    _listen(world, {"run_ids": sorted(some), "events": events}, some)
    if world.chance.random() < 0.5:
        # from the first cursor on: what was told before the client came is looked up by whoever wants it
        _listen(world, {"run_ids": sorted(runs)}, set(runs))


def dispatch(world: World) -> None:
    """Runs that are asked for, workers that execute them, and the reaper."""
    runs = _runs(world, 1 + world.chance.randrange(2))
    told: Told = [(run_id, "pending", {"numbered": True, "request": {"inputs": {}}}) for run_id in runs]
    if world.loop.slow:
        # heartbeats that come too late, and a reaper whose deed comes long after its look
        world.loop.slow = world.chance.choice((0.0, 0.02, 0.1))
        world.network.slow_scripts = world.chance.choice((0.1, 0.3, 0.5))
    world.begin("publisher", world.publisher(told))
    world.begin("projector 0", world.projector)
    if world.chance.random() < 0.3:
        world.begin("projector 1", world.projector)
    for number in range(1 + world.chance.randrange(2)):
        world.begin(f"worker {number}", world.worker)
    for number in range(1 + world.chance.randrange(2)):
        world.begin(f"reaper {number}", world.reaper)


SCENARIOS: tuple[Callable[[World], None], ...] = (race, push, dispatch)


def play(seed: int, scenarios: tuple[Callable[[World], None], ...] = SCENARIOS) -> Outcome:
    """Play one schedule from its begin to its end. Needs: `simulated_clocks`."""
    outcome, loop = Outcome(seed), SimulatedLoop(seed)
    with time_of(loop, seed):
        world = World(loop)
        scenario = scenarios[seed % len(scenarios)]
        outcome.scenario = scenario.__name__
        try:
            loop.run_until_complete(_play(world, scenario, outcome))
            dump = world.dump()
            outcome.digest = sha256(repr(sorted(dump.values.items())).encode()).hexdigest()
            outcome.wrong = world.differences()
        except Exception as error:
            outcome.wrong = [*world.wrong, "".join(traceback.format_exception(error)[-3:])]
        outcome.steps = loop.steps
        loop.end()
    return outcome


async def _play(world: World, scenario: Callable[[World], None], outcome: Outcome) -> None:
    world.loop.slow = world.chance.choice((0.0, 0.0, 0.01, 0.05))
    scenario(world)
    for _ in range(world.chance.choice((0, 1, 1, 2, 3))):
        outcome.faults += 1
        _plan(world)
    world.loop.call_at(CALM_S, world.calm)
    await world.until_ended()
    await world.settle()


def _plan(world: World) -> None:
    """Plan one fault: an actor is frozen for a while or killed, its calls are lost, or the server is away."""
    loop, chance, name = world.loop, world.chance, world.chance.choice(world.names)
    kind, often, length_s = (
        chance.randrange(4),
        chance.choice((0.02, 0.2, 1.0)),
        chance.choice((0.8, 3.0)) * chance.random(),
    )

    def happen() -> None:
        actor = world.actor(name)
        if kind == 0:
            loop.freeze(actor)
            loop.call_later(length_s, loop.thaw, actor)
        elif kind == 1:
            world.kill(name)
        elif kind == 2:
            world.network.cuts[actor] = often
            loop.call_later(length_s, world.network.cuts.clear)
        else:
            loop.freeze("server")
            loop.call_later(length_s, loop.thaw, "server")

    loop.plan[1 + chance.randrange(LATEST_FAULT)] = happen


def _listen(world: World, asked: dict[str, Any], run_ids: set[RunId]) -> None:
    world.listeners += 1
    world.loop.create_task(world.listen(asked, run_ids))


def _runs(world: World, count: int) -> list[RunId]:
    world.runs = [run_id_of(number) for number in range(count)]
    return list(world.runs)


def _contradictions(world: World, runs: list[RunId]) -> Told:
    chance = world.chance
    told: Told = []
    for run_id in runs:
        statuses = [chance.choice(("pending", "running", *ENDS, "nonsense")) for _ in range(1 + chance.randrange(3))]
        for status in [*statuses, chance.choice(ENDS)]:
            fields: dict[str, Any] = {"numbered": chance.random() < 0.8, "attempt": chance.choice((None, 1, 2))}
            fields["project_name"] = PROJECTS[chance.random() < 0.1]
            told.append((run_id, status, fields | _output(world)))
    chance.shuffle(told)
    # whichever project is first has the run, so that each of them has an end of its own
    return told + [(run_id, "failed", {"project_name": name, "numbered": True}) for run_id in runs for name in PROJECTS]


def _output(world: World) -> dict[str, Any]:
    return {"output": {"stdout": "x" * world.chance.choice((1, 5000))}} if world.chance.random() < 0.3 else {}


def play_many(first: int, count: int) -> list[Outcome]:
    """Play schedules one after the other."""
    logging.disable(logging.CRITICAL)
    gc.freeze()
    with simulated_clocks():
        return [play(seed) for seed in range(first, first + count)]
