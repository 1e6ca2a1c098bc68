"""The port Runs: records, histories and prefixes."""

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.projector import Projector
from tests.projector.builders import tell

IDS = [
    RunId("6f1c0f4e-6d2b-5d3e-9c1a-2b7f3a9d8e10"),
    RunId("6f1c0f4e-6d2b-5d3e-9c1a-2b7f3a9d8e11"),
    RunId("6f1c8000-0000-4000-8000-000000000000"),
    RunId("6f1d0000-0000-4000-8000-000000000000"),
    RunId("00000000-0000-4000-8000-000000000000"),
    RunId("ffffffff-ffff-4fff-bfff-ffffffffffff"),
]


@pytest.fixture
async def filled(store: RedisStore) -> RedisStore:
    for place, run_id in enumerate(IDS):
        await tell(store, run_id, "running", project_name="even" if place % 2 == 0 else "odd")
    await Projector(store).drain()
    return store


@pytest.mark.parametrize("digits", ["6f1c", "6f1c0", "6f1c0f4e6d2b5d3e9c1a2b7f3a9d8e1", "0000", "ffff", "6f1e", "6f1"])
async def test_a_prefix_finds_every_run_that_begins_with_it_in_order(filled: RedisStore, digits: str) -> None:
    wanted = sorted(run_id for run_id in IDS if run_id.replace("-", "").startswith(digits))

    assert await filled.runs.find(digits, None, 10) == wanted
    assert await filled.runs.find(digits, None, 1) == wanted[:1]


async def test_a_whole_id_finds_its_run_only(filled: RedisStore) -> None:
    for run_id in IDS:
        assert await filled.runs.find(run_id.replace("-", ""), None, 10) == [run_id]
    assert await filled.runs.find("1" * 32, None, 10) == []


async def test_a_prefix_never_finds_a_run_of_a_project_that_was_not_asked_for(filled: RedisStore) -> None:
    assert await filled.runs.find("6f1c", frozenset({"even"}), 10) == [IDS[0], IDS[2]]
    assert await filled.runs.find("6f1c", frozenset({"odd"}), 10) == [IDS[1]]
    assert await filled.runs.find("6f1c", frozenset(), 10) == []
    assert await filled.runs.find(IDS[0].replace("-", ""), frozenset({"odd"}), 10) == []


async def test_records_come_in_the_order_asked_for_and_none_for_the_unknown(filled: RedisStore) -> None:
    unknown = RunId("12345678-0000-4000-8000-000000000000")

    found = await filled.runs.get_many([IDS[3], unknown, IDS[0], IDS[3]])

    assert [record and record.run.run_id for record in found] == [IDS[3], None, IDS[0], IDS[3]]
    assert await filled.runs.get_many([]) == []
    assert await filled.runs.history(unknown) == []
