"""A short selection of every kind of attack, and the proof that what is checked can fail."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.attack.attack import Plan, Tally
from tests.attack.kinds import events, http
from tests.attack.kinds.table import ATTACKS
from tests.attack.run import Outcome, attack
from tests.attack.table import write, write_failures
from tests.attack.verdict import MIB, Change
from tests.attack.watched import Reading

pytestmark = pytest.mark.timeout(900)


def wrong(outcome: Outcome) -> str:
    return " / ".join(what for tally in outcome.tallies for what in tally.wrong)


async def broken(tmp_path: Path, kind: str, role: str, how: str, inputs: int) -> str:
    """Attack with one role broken on purpose; return what was found wrong."""
    kinds = [ATTACKS[kind]]
    total = round(inputs / kinds[0].share) if kinds[0].share else inputs
    return wrong(await attack(tmp_path, kinds, inputs=total, seed=7, broken_by={role: how}))


@pytest.mark.slow
async def test_a_few_of_every_kind_find_nothing_wrong(tmp_path: Path) -> None:
    kinds = [kind for kind in ATTACKS.values() if kind.name != "schema" or find_spec("schemathesis")]

    outcome = await attack(tmp_path, kinds, inputs=2_000, seed=20_260_428)

    assert not write_failures(outcome)
    assert {tally.kind for tally in outcome.tallies if tally.inputs} == {kind.name for kind in kinds}
    assert outcome.inputs > 1_800
    assert all(f"| {kind.name} |" in write(outcome, ATTACKS, seed=1) for kind in kinds)


@pytest.mark.slow
async def test_a_handler_that_fails_is_found_by_its_answers_and_by_its_log(tmp_path: Path) -> None:
    told = await broken(tmp_path, "http", "gateway", "error", 300)

    assert "an answer of 500" in told
    assert "the log of the gateway tells of trouble" in told


@pytest.mark.slow
async def test_a_status_that_is_not_documented_is_found(tmp_path: Path) -> None:
    assert "an answer of 418, which the document does not tell of" in await broken(
        tmp_path, "http", "gateway", "unknown", 300
    )


@pytest.mark.slow
async def test_silence_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.attack.http_line.WITHIN_S", 5.0)

    assert "an input that was not answered" in await broken(tmp_path, "http", "gateway", "silence", 100)


@pytest.mark.slow
async def test_memory_and_files_that_are_kept_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.attack.run.SETTLE_S", 1.0)

    told = await broken(tmp_path, "http", "gateway", "leak", 2_000)

    assert "the gateway gained" in told
    assert "the gateway holds" in told


@pytest.mark.slow
async def test_a_process_that_dies_is_found(tmp_path: Path) -> None:
    assert "the gateway has ended" in await broken(tmp_path, "http", "gateway", "die", 2_000)


@pytest.mark.slow
async def test_an_event_that_is_neither_folded_nor_buried_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "WITHIN_S", 3.0)

    assert "entries that were neither folded nor buried" in await broken(tmp_path, "events", "projector", "forget", 300)


@pytest.mark.slow
async def test_a_child_that_outlives_its_run_is_found(tmp_path: Path) -> None:
    assert "a child that outlived its run" in await broken(tmp_path, "children", "worker", "spare", 1)


def test_the_same_input_is_made_again_from_seed_kind_and_number_alone() -> None:
    plan, again = Plan("http", 10, 4), Plan("http", 1, 4, only=[7])

    assert list(again.numbers()) == [7]
    assert plan.random(7).randbytes(20) == again.random(7).randbytes(20)
    assert plan.random(7).randbytes(20) != plan.random(8).randbytes(20)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (Reading(100 * MIB, 20, 1), None),
        (Reading(400 * MIB, 20, 1), "memory"),
        (Reading(100 * MIB, 500, 1), "500 files"),
        (Reading(100 * MIB, 20, 2), "2 children"),
    ],
)
def test_growth_past_a_bound_is_a_failure(after: Reading, says: str | None) -> None:
    found = Change("gateway", Reading(90 * MIB, 20, 1), after).failures(Tally(kind="http", inputs=1000))

    assert (says is None) == (not found)
    assert all(says in line for line in found)


def test_all_kinds_together_come_to_as_many_inputs_as_were_asked_for() -> None:
    assert sum(kind.inputs_of(100_000) for kind in ATTACKS.values()) > 100_000
    assert http.ATTACK.inputs_of(1_000) < 1_000
