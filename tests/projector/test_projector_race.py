"""Two projectors on one partition, interleaved as chance will have it, do what one would have done."""

import asyncio

import pytest

from runstore.adapters.store import RedisStore
from runstore.projector import Projector, ProjectorConfig
from tests.conftest import emptied
from tests.projector.state import State, Turns, state_of, stepped
from tests.projector.stories import STORIES, Told, tell_story

SMALL = ProjectorConfig(batch_entries=2, trim_every_commits=2)


async def folded_by(url: str, story: Told, names: list[str], seed: int) -> State:
    emptied(url)
    turns = Turns(names, seed)
    async with RedisStore.open(url, partitions=1) as store:
        await tell_story(store, story)

        async def fold(name: str) -> None:
            try:
                async with RedisStore.open(url) as own:
                    stepped(own, lambda: turns.step(name))
                    await Projector(own, SMALL).drain()
            finally:
                turns.leave(name)

        await asyncio.gather(*(fold(name) for name in names))
        return await state_of(store)


@pytest.mark.parametrize("name", STORIES)
async def test_two_projectors_that_race_fold_what_one_alone_folds(redis_url: str, name: str) -> None:
    clean = await folded_by(redis_url, STORIES[name], ["alone"], 0)

    for seed in range(40):
        raced = await folded_by(redis_url, STORIES[name], ["a", "b"], seed)
        assert {key: value for key, value in raced.items() if key in clean} == clean, (name, seed)
        assert all(b":o:" in key and not value[1] for key, value in raced.items() if key not in clean)


@pytest.mark.parametrize("name", STORIES)
async def test_two_turns_of_one_projector_at_once_fold_what_one_alone_folds(redis_url: str, name: str) -> None:
    clean = await folded_by(redis_url, STORIES[name], ["alone"], 0)

    emptied(redis_url)
    async with RedisStore.open(redis_url, partitions=1) as store:
        await tell_story(store, STORIES[name])
        projector = Projector(store, SMALL)
        await asyncio.gather(projector.drain(), projector.drain(), projector.drain())

        assert {key: value for key, value in (await state_of(store)).items() if key in clean} == clean
