"""What a publisher was told is safe, and Redis lost all the same, is sent again to the next life of Redis."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from runstore import AsyncPublisher, PublisherConfig
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.projector import Projector
from tests.faults.lives import Lives
from tests.waiting import happens

CONFIG = PublisherConfig(patience_s=0.5, backoff_s=0.01, max_backoff_s=0.05)
BOTH = pytest.mark.parametrize("life", ["older", "empty"])


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    with Lives(tmp_path / "redis") as made:
        yield made


@pytest.fixture
async def publisher(lives: Lives) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(lives.url, "forecasts", config=CONFIG) as opened:
        yield opened


async def come_to_be(lives: Lives, run_id: str, *statuses: str) -> None:
    async def are_they() -> bool:
        return await lives.statuses(run_id) == [*statuses]

    await happens(are_they, 40)


@BOTH
async def test_what_another_life_of_redis_lacks_is_sent_again_with_the_next_event(
    lives: Lives, publisher: AsyncPublisher, life: str
) -> None:
    before, run_id, after = (str(uuid4()) for _ in range(3))
    await publisher.publish(before, "running")
    lives.remember()
    await publisher.publish(run_id, "running")
    await publisher.publish(run_id, "success", output={"outputs": {"revenue": ["x" * 100_000]}})

    await lives.come_back_as(life)
    await publisher.publish(after, "running")

    await come_to_be(lives, run_id, "running", "success")
    await come_to_be(lives, before, "running")
    async with RedisStore.open(lives.url) as store:
        (record,) = await store.runs.get_many([RunId(run_id)])
        assert record is not None
        assert record.run.output is not None
        assert len([part async for part in store.outputs.read(RunId(run_id), record.run.output, 0, 100)]) == 1


@BOTH
async def test_a_publisher_that_has_nothing_more_to_tell_hears_that_its_last_word_was_lost(
    lives: Lives, publisher: AsyncPublisher, life: str
) -> None:
    run_id = str(uuid4())
    lives.remember()
    await publisher.publish(run_id, "failed", error_message="no data")

    await lives.come_back_as(life)

    await come_to_be(lives, run_id, "failed")


async def test_a_redis_that_was_emptied_without_a_break_is_sent_the_latest_events_again(
    lives: Lives, publisher: AsyncPublisher
) -> None:
    run_id = str(uuid4())
    await publisher.publish(run_id, "success")

    async with RedisStore.open(lives.url) as store:
        await store.client.execute_command("FLUSHALL")

    await come_to_be(lives, run_id, "success")


async def test_a_redis_that_kept_everything_is_sent_nothing_again(lives: Lives, publisher: AsyncPublisher) -> None:
    told = [(await publisher.publish(str(uuid4()), "success")).event_id for _ in range(20)]
    lives.die()
    lives.start()
    told += [(await publisher.publish(str(uuid4()), "success")).event_id for _ in range(20)]
    resending = publisher._courier_here()._delivery._resending

    await happens(lambda: resending._is_well.is_set() and resending._life > 1)

    async with RedisStore.open(lives.url) as store:
        assert sum([await store.client.xlen(keys.events) for keys in store.meta.keys]) == len(told)
    assert sorted(await lives.logged()) == sorted(told)


async def test_what_is_trimmed_behind_the_cursor_is_not_taken_for_lost(lives: Lives, publisher: AsyncPublisher) -> None:
    await publisher.publish(str(uuid4()), "success")
    async with RedisStore.open(lives.url) as store:
        await Projector(store).drain()
        for keys in store.meta.keys:
            await store.client.execute_command("XTRIM", keys.events, "MAXLEN", 0)
        delivery = publisher._courier_here()._delivery

        await delivery._held.store()
        delivery._held.doubt()
        await delivery._resending._look()

        assert sum([await store.client.xlen(keys.events) for keys in store.meta.keys]) == 0


async def test_a_program_that_is_about_to_end_sends_again_what_it_knows_to_be_lost(lives: Lives) -> None:
    lost, last = str(uuid4()), str(uuid4())
    lives.remember()
    code = (
        "import sys, runstore\n"
        "with runstore.Publisher(sys.argv[1], 'forecasts') as publisher:\n"
        "    publisher.publish(sys.argv[2], 'success')\n"
        "    print('told', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    publisher.publish(sys.argv[3], 'success')\n"
    )
    argv = [sys.executable, "-c", code, lives.url, lost, last]
    program = await asyncio.to_thread(subprocess.Popen, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert await asyncio.to_thread(program.stdout.readline) == "told\n"

    await lives.come_back_as("older")
    await asyncio.to_thread(program.communicate, "go on\n", 30)

    assert program.returncode == 0
    assert await lives.statuses(lost) == ["success"]
    assert await lives.statuses(last) == ["success"]
