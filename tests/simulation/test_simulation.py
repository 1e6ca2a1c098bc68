"""Whatever order messages come in, and whoever is frozen, killed or cut off meanwhile: it ends in one fold of the log.

`python -m tests.simulation --schedules 100000` plays as many as one likes, `--seed N` plays one again.
"""

import logging
from collections.abc import Iterator

import pytest

from tests.simulation import world
from tests.simulation.clock import simulated_clocks
from tests.simulation.mutations import MUTATIONS
from tests.simulation.scenarios import SCENARIOS, dispatch, play
from tests.simulation.scripts import scripts


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with simulated_clocks():
        yield
    logging.disable(logging.NOTSET)


def test_every_schedule_ends_in_the_fold_of_its_log() -> None:
    outcomes = [play(seed) for seed in range(240)]

    assert [(outcome.seed, outcome.wrong) for outcome in outcomes if outcome.wrong] == []
    assert {outcome.scenario for outcome in outcomes} == {scenario.__name__ for scenario in SCENARIOS}
    assert sum(outcome.faults for outcome in outcomes) > 240


def test_a_seed_replays() -> None:
    first, again = (play(7) for _ in range(2))

    assert (first.steps, first.faults, first.digest) == (again.steps, again.faults, again.digest)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_schedules_end_in_the_fold_of_their_logs() -> None:
    for seed in range(10_000, 12_000):
        outcome = play(seed)
        assert not outcome.wrong, seed


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_product_that_is_broken_by_hand_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    monkeypatch.setattr(world, "_SCRIPTS", scripts())
    scenarios = (dispatch,) if "lease" in name else SCENARIOS

    assert any(play(seed, scenarios).wrong for seed in range(2000))
