"""What it costs to fold a run that nobody remembers: it is taken for new, and the commit sees to that."""

from typing import Any

import pytest

from runstore.adapters import commit, partition
from runstore.adapters.store import RedisStore
from runstore.core.ids import to_bytes
from runstore.core.status import Status
from runstore.projector import Projector, ProjectorConfig
from tests.projector.builders import run_id_of, tell
from tests.projector.test_projector import status_of

HOME = 3
RUNS = [run_id_of(number, partition=HOME) for number in range(1, 6)]


@pytest.fixture
def asked(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scripts that were asked for, as they are."""
    names = {commit._COMMIT.sha: "commit", partition._SEE.sha: "look"}
    heard: list[str] = []
    execute = store.client.execute_command

    async def listen(*args: Any, **options: Any) -> Any:
        if args[0] in ("EVAL", "EVALSHA") and args[1] in names:
            heard.append(names[args[1]])
        return await execute(*args, **options)

    monkeypatch.setattr(store.client, "execute_command", listen)
    return heard


async def test_an_event_of_a_new_run_is_committed_without_a_look_once_such_runs_were_new(
    store: RedisStore, projector: Projector, asked: list[str]
) -> None:
    await tell(store, RUNS[0], "running")
    await projector.drain()
    asked.clear()

    await tell(store, RUNS[1], "success")
    await projector.drain()

    assert asked == ["commit"]
    assert await status_of(store, RUNS[1]) is Status.SUCCESS


async def test_an_event_of_a_run_that_is_remembered_is_committed_without_a_look(
    store: RedisStore, projector: Projector, asked: list[str]
) -> None:
    await tell(store, RUNS[0], "running")
    await projector.drain()
    asked.clear()

    await tell(store, RUNS[0], "success")
    await projector.drain()

    assert asked == ["commit"]


async def test_a_run_that_was_forgotten_and_is_taken_for_new_goes_on_where_it_stood(
    store: RedisStore, asked: list[str]
) -> None:
    projector = Projector(store, ProjectorConfig(heads=1))
    for run_id in RUNS[:2]:
        await tell(store, run_id, "running", tags=["first"])
        await projector.drain()
    asked.clear()

    await tell(store, RUNS[0], "success")
    await tell(store, RUNS[2], "success")
    await projector.drain()

    assert asked == ["commit", "look", "commit"]
    [first, third] = await store.runs.get_many([RUNS[0], RUNS[2]])
    assert first is not None
    assert third is not None
    assert (first.run.status, first.run.tags, first.run.events) == (Status.SUCCESS, ("first",), 2)
    assert third.run.events == 1


async def test_while_unknown_runs_prove_to_be_known_each_batch_looks_first(store: RedisStore, asked: list[str]) -> None:
    projector = Projector(store, ProjectorConfig(heads=1))
    for run_id in RUNS[:3]:
        await tell(store, run_id, "running")
        await projector.drain()
    await tell(store, RUNS[0], "success")
    await projector.drain()
    asked.clear()

    await tell(store, RUNS[1], "success")
    await projector.drain()

    assert asked == ["look", "commit"]


async def test_a_run_that_asks_for_a_number_is_looked_up_first(
    store: RedisStore, projector: Projector, asked: list[str]
) -> None:
    await tell(store, RUNS[0], "running")
    await projector.drain()
    asked.clear()

    await tell(store, RUNS[1], "pending", numbered=True)
    await projector.drain()

    assert asked == ["look", "commit"]


async def test_a_hash_that_holds_no_run_is_no_obstacle_to_a_new_one(store: RedisStore, projector: Projector) -> None:
    await tell(store, RUNS[0], "running")
    await projector.drain()
    await store.client.execute_command("HSET", store.meta.keys[HOME].run(to_bytes(RUNS[1])), "junk", "1")

    await tell(store, RUNS[1], "success")
    await projector.drain()

    assert await status_of(store, RUNS[1]) is Status.SUCCESS
