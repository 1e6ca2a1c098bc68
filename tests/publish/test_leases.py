"""Tracked runs are held by a lease: a process that ends suddenly ends its runs, and one that is busy does not."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from runstore import AsyncPublisher, Publisher, PublisherConfig
from runstore.adapters.dispatch import Standing
from runstore.adapters.holding import Holding, RedisHolding
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId, to_bytes
from runstore.core.status import Status
from runstore.publish import track
from runstore.publish.event import make_event
from runstore.publish.track import Story, TrackOptions
from runstore.wire.event import encode_event
from tests.publish.watch import LEASE_MS, Watch, past_its_lease
from tests.waiting import happens

CONFIG = PublisherConfig(lease_s=LEASE_MS / 1000)
TRACKED = """
import sys, time, runstore
config = runstore.PublisherConfig(lease_s=float(sys.argv[3]))
publisher = runstore.Publisher(sys.argv[1], "forecasts", config=config)
with publisher.track(run_id=sys.argv[2]):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture
async def watch(real_store: RedisStore) -> AsyncIterator[Watch]:
    made = Watch(real_store)
    async with made.projector, made.reaper:
        yield made


async def test_a_process_that_is_killed_ends_its_run(redis_url: str, watch: Watch) -> None:
    run_id = str(uuid4())
    argv = [sys.executable, "-c", TRACKED, redis_url, run_id, str(LEASE_MS / 1000)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"begun\n"
    await watch.until(run_id, Status.RUNNING)
    await happens(watch.is_held)

    process.kill()
    await process.wait()

    run = await watch.until(run_id, Status.FAILED)
    assert run.error_message == "worker lost"


DIES_AT_ONCE = """
import asyncio, os, signal, sys, runstore, runstore.publish.track
runstore.publish.track._HELD_S = 30
config = runstore.PublisherConfig(lease_s=float(sys.argv[2]))
def die():
    os.kill(os.getpid(), signal.SIGKILL)
async def work():
    publisher = runstore.AsyncPublisher(sys.argv[1], "forecasts", config=config)
    async with publisher.track(run_id=sys.argv[3]):
        die()
if sys.argv[4] == "async":
    asyncio.run(work())
with runstore.Publisher(sys.argv[1], "forecasts", config=config).track(run_id=sys.argv[3]):
    die()
"""


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_work_that_kills_its_process_with_its_first_line_ends_its_run(
    redis_url: str, watch: Watch, kind: str
) -> None:
    run_id = str(uuid4())
    argv = [sys.executable, "-c", DIES_AT_ONCE, redis_url, str(LEASE_MS / 1000), run_id, kind]

    assert await (await asyncio.create_subprocess_exec(*argv)).wait() < 0

    run = await watch.until(run_id, Status.FAILED)
    assert run.error_message == "worker lost"


async def test_work_that_begins_is_held_already(redis_url: str, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "_HELD_S", 30)
    async with AsyncPublisher(redis_url, "forecasts", config=CONFIG) as publisher:
        for _ in range(20):
            async with publisher.track():
                assert await watch.is_held()


async def test_work_that_keeps_its_loop_busy_loses_no_run(redis_url: str, watch: Watch) -> None:
    run_id = str(uuid4())

    def work() -> None:
        async def busy() -> None:
            async with (
                AsyncPublisher(redis_url, "forecasts", config=CONFIG) as publisher,
                publisher.track(run_id=run_id),
            ):
                time.sleep(3 * LEASE_MS / 1000)  # noqa: ASYNC251 - it is the point

        asyncio.run(busy())

    await asyncio.to_thread(work)

    assert (await watch.until(run_id, Status.SUCCESS, Status.FAILED)).status is Status.SUCCESS
    assert await watch.leases() == 0


async def test_a_run_that_ended_is_held_by_nobody(redis_url: str, watch: Watch) -> None:
    def work() -> list[str]:
        with Publisher(redis_url, "forecasts", config=CONFIG) as publisher:
            ids = []
            for _ in range(20):
                with publisher.track() as run:
                    ids.append(run.run_id)
            return ids

    ids = await asyncio.to_thread(work)

    for run_id in ids:
        await watch.until(run_id, Status.SUCCESS)
    await past_its_lease(watch)
    assert await watch.leases() == 0
    told = [item.worker for run_id in ids for item in await watch.store.runs.history(RunId(run_id))]
    assert "reaper" not in told


async def test_a_cancel_is_not_left_to_a_holder_that_hears_none(redis_url: str, watch: Watch) -> None:
    async with AsyncPublisher(redis_url, "forecasts", config=CONFIG) as publisher, publisher.track() as run:
        await happens(watch.is_held)

        assert not await watch.store.served.ask_cancel(RunId(run.run_id))


async def test_a_run_that_cannot_be_held_takes_no_other_with_it(redis_url: str, watch: Watch) -> None:
    async def both_are_held() -> bool:
        return await watch.leases() == 2

    publisher = AsyncPublisher(redis_url, "forecasts", config=CONFIG)
    async with publisher, publisher.track() as ill, publisher.track() as run:
        await happens(both_are_held)
        lease = watch.store.meta.keys_of(RunId(ill.run_id)).lease(to_bytes(RunId(ill.run_id)))
        await watch.store.client.delete(lease)
        await watch.store.client.set(lease, "poison")

        await past_its_lease(watch)

    assert (await watch.until(run.run_id, Status.SUCCESS, Status.FAILED)).status is Status.SUCCESS


async def test_many_leases_are_taken_and_renewed_in_few_round_trips(real_store: RedisStore) -> None:
    holdings = [
        Holding(run_id=RunId(str(uuid4())), project_name="forecasts", attempt=1, token=f"{number}")
        for number in range(300)
    ]
    before = (await real_store.client.info("stats"))["total_writes_processed"]

    for is_taken in (False, True):
        for holding in holdings:
            holding.is_taken = is_taken
        told = await RedisHolding(real_store).hold_each(holdings, worker="w", lease_ms=60_000)
        assert told == [Standing.HELD] * 300

    after = (await real_store.client.info("stats"))["total_writes_processed"]
    assert after - before < 100


async def cancel(store: RedisStore, run_id: str) -> None:
    """Cancel a run as a gateway does where nobody hears of it."""
    await store.log.append(RunId(run_id), encode_event(make_event(run_id, "cancelled", {"project_name": "forecasts"})))


async def test_work_is_told_that_its_run_was_cancelled_and_goes_on(redis_url: str, watch: Watch) -> None:
    publisher = AsyncPublisher(redis_url, "forecasts", config=CONFIG)
    async with publisher, publisher.track() as other, publisher.track() as run:
        await watch.until(run.run_id, Status.RUNNING)

        await cancel(watch.store, run.run_id)

        await happens(lambda: run.is_cancelled)
        assert not other.is_cancelled

    assert (await watch.until(run.run_id, Status.CANCELLED)).status is Status.CANCELLED
    assert [item.ignored != "" for item in await watch.store.runs.history(RunId(run.run_id))] == [False, False, True]


async def test_a_cancel_from_before_the_lease_was_taken_again_is_heard(redis_url: str, watch: Watch) -> None:
    async with AsyncPublisher(redis_url, "forecasts", config=CONFIG) as publisher, publisher.track() as run:
        await happens(watch.is_held)
        await publisher.let_go(RunId(run.run_id), drop=True)  # as a command that is stopped
        await cancel(watch.store, run.run_id)
        await watch.until(run.run_id, Status.CANCELLED)

        publisher.hold(run, 1)

        await happens(lambda: run.is_cancelled)


async def test_a_lease_that_the_store_lost_is_no_cancel(redis_url: str, watch: Watch) -> None:
    async with AsyncPublisher(redis_url, "forecasts", config=CONFIG) as publisher, publisher.track() as run:
        await watch.until(run.run_id, Status.RUNNING)
        await happens(watch.is_held)
        keys = watch.store.meta.keys_of(RunId(run.run_id))
        await watch.store.client.delete(keys.leases, keys.lease(to_bytes(RunId(run.run_id))))

        await past_its_lease(watch)

        assert not run.is_cancelled


async def test_a_cancel_from_before_the_work_began_is_told_and_ends_no_command(redis_url: str, watch: Watch) -> None:
    run_id, heard = str(uuid4()), asyncio.Event()
    await cancel(watch.store, run_id)
    await watch.until(run_id, Status.CANCELLED)
    async with AsyncPublisher(redis_url, config=CONFIG) as publisher:
        options = TrackOptions(project_name="forecasts", run_id=run_id)
        story = Story(publisher, options, on_cancel=heard.set)
        await story.begin()
        await happens(lambda: story.run.is_cancelled)
        keys = watch.store.meta.keys_of(RunId(run_id))
        await watch.store.client.delete(keys.lease(to_bytes(RunId(run_id))))
        await past_its_lease(watch)

        assert not heard.is_set()
