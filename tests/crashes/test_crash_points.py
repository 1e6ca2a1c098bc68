"""At whatever call a process dies or fails, the story ends in one fold of the log, with nothing lost and nothing left.

`python -m tests.crashes` goes through all points of all stories and prints how many there are.
"""

import pytest

from runstore.adapters import numbers
from runstore.adapters.connection import Script
from tests.crashes.points import survey
from tests.crashes.stories import STORIES_TOLD

QUICK = [(name, role) for name, story in STORIES_TOLD.items() if story.is_quick for role in story.roles]
SHORT = [("a run's life", "publisher"), ("tokens", "operator")]


@pytest.mark.parametrize(("name", "role"), SHORT)
async def test_a_short_story_ends_well_whatever_call_its_process_dies_at(redis_url: str, name: str, role: str) -> None:
    found = await survey(redis_url, STORIES_TOLD[name], role)

    assert not found.failures
    assert found.met == found.points > 30


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "role"), [pair for pair in QUICK if pair not in SHORT])
async def test_a_story_ends_well_whatever_call_its_process_dies_at(redis_url: str, name: str, role: str) -> None:
    found = await survey(redis_url, STORIES_TOLD[name], role)

    assert not found.failures
    assert found.met == found.points > 10


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_number_that_is_reserved_again_and_again_is_seen(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = numbers._RESERVE.lua.replace("if not number then", "if true then")
    monkeypatch.setattr(numbers, "_RESERVE", Script(forgetful))

    found = await survey(redis_url, STORIES_TOLD["numbered runs and garbage"], "projector")

    assert any("run numbers" in failure for failure in found.failures)
