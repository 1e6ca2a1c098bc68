"""A projector that dies before or after any call to Redis loses and repeats nothing."""

import pytest

from runstore.adapters.store import RedisStore
from runstore.projector import Projector, ProjectorConfig
from tests.conftest import emptied
from tests.projector.state import Crash, Fate, State, state_of, stepped
from tests.projector.stories import STORIES, Told, tell_story

SMALL = ProjectorConfig(batch_entries=2, trim_every_commits=1)


async def told_and_folded(url: str, story: Told, dies_at: int) -> tuple[State, int]:
    """Fold a story with a projector that dies at a step, then with one that lives; return the state and the steps."""
    emptied(url)
    async with RedisStore.open(url, partitions=1) as doomed_store, RedisStore.open(url) as store:
        await tell_story(store, story)
        fate = Fate(dies_at)
        stepped(doomed_store, fate.step)
        doomed = Projector(doomed_store, SMALL)
        try:
            await doomed.drain()
        except Crash:
            pass
        else:
            assert dies_at < 0
        await Projector(store, SMALL).drain()
        return await state_of(store), fate.steps


@pytest.mark.parametrize("name", STORIES)
async def test_a_projector_that_dies_at_any_step_loses_and_repeats_nothing(redis_url: str, name: str) -> None:
    clean, steps = await told_and_folded(redis_url, STORIES[name], -1)
    assert steps > 20
    assert not [key for key in clean if b":o:" in key and not clean[key][1]], "what is kept does not expire"

    for dies_at in range(steps):
        crashed, _ = await told_and_folded(redis_url, STORIES[name], dies_at)
        # an output written for a commit that never came expires by itself; one that was kept never does
        assert {key: value for key, value in crashed.items() if key in clean} == clean, (name, dies_at)
        assert all(b":o:" in key and not value[1] for key, value in crashed.items() if key not in clean)
