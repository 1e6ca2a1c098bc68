"""A run that has begun has an end: somebody holds it, or its end is on its way, whatever fails meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from runstore import AsyncPublisher, PublisherConfig
from runstore.adapters.dispatch import Standing
from runstore.adapters.holding import Holding, RedisHolding
from runstore.adapters.reaping import RedisReaping
from runstore.adapters.store import RedisStore
from runstore.core.event import Event, Hold
from runstore.core.ids import RunId, to_bytes
from runstore.core.status import Status
from runstore.publish.event import make_event
from runstore.publish.holds import holds_of
from runstore.publish.track import Story, TrackOptions
from runstore.publish.tracked import Ending
from runstore.wire.event import encode_event
from runstore.wire.spool import decode_waiting, encode_waiting
from tests.publish.site import Site, events_in, program
from tests.publish.watch import LEASE_MS, Watch, past_its_lease
from tests.waiting import happens

LEASE_S = LEASE_MS / 1000
HOLD = Hold(token="t", worker="w", term_ms=LEASE_MS)
BEGINS = """
publisher = Publisher(URL, "forecasts", config=PublisherConfig(spool_dir=sys.argv[2], lease_s=float(sys.argv[4])))
with publisher.track(run_id=sys.argv[3]):
    os._exit(0)
"""


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[Watch]:
    async with RedisStore.open(url) as store:
        watch = Watch(store)
        async with watch.projector, watch.reaper:
            yield watch


def running(run_id: str, hold: Hold | None = None) -> Event:
    return msgspec.structs.replace(make_event(run_id, "running", {"project_name": "forecasts"}), hold=hold)


async def test_a_run_that_began_without_the_store_and_lost_its_process_ends(site: Site, tmp_path: Path) -> None:
    run_id, spool = str(uuid4()), tmp_path / "spool"
    site.stop()
    await program(site, BEGINS, str(spool), run_id, str(LEASE_S))
    assert events_in(spool) == 1
    site.start()

    async with (
        watched(site.url) as watch,
        AsyncPublisher(site.url, config=PublisherConfig(spool_dir=str(spool))) as publisher,
    ):
        assert await publisher.deliver_abandoned()

        run = await watch.until(run_id, Status.FAILED)
    assert run.error_message == "worker lost"


async def test_a_run_whose_end_neither_store_nor_spool_took_is_ended(site: Site, tmp_path: Path) -> None:
    config = PublisherConfig(spool_dir=str(tmp_path / "spool"), spool_bytes=2_000, timeout_s=0.5, lease_s=LEASE_S)
    async with AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        site.stop()
        async with publisher.track() as run:
            run.stdout = "x" * 5_000  # which has no room there
        site.start()

        async with watched(site.url) as watch:
            ended = await watch.until(run.run_id, Status.FAILED, Status.SUCCESS)
    assert ended.error_message == "worker lost"


async def test_a_run_is_held_while_its_end_waits_for_the_store(redis_url: str, real_store: RedisStore) -> None:
    watch, config = Watch(real_store), PublisherConfig(spool_bytes=0, timeout_s=60, lease_s=LEASE_S)
    async with AsyncPublisher(redis_url, config=config) as publisher:
        story = Story(publisher, TrackOptions(project_name="forecasts"))
        await story.begin()
        run_id = RunId(story.run_id)
        keys, reaping = real_store.meta.keys_of(run_id), RedisReaping(real_store)
        await real_store.client.rename(keys.events, b"aside")
        await real_store.client.set(keys.events, "poison")
        finishing = asyncio.create_task(story.finish(Ending(status=Status.SUCCESS)))
        await past_its_lease(watch)

        until = await real_store.client.zscore(keys.leases, to_bytes(run_id))
        assert until > await reaping.now_ms()
        assert not finishing.done()

        await real_store.client.rename(b"aside", keys.events)
        await finishing
        assert story.is_end_safe


async def test_a_run_that_waits_for_another_attempt_is_held_by_no_spool(site: Site, tmp_path: Path) -> None:
    config = PublisherConfig(spool_dir=str(tmp_path / "spool"), lease_s=LEASE_S)
    async with AsyncPublisher(site.url, config=config) as publisher:
        site.stop()
        story = Story(publisher, TrackOptions(project_name="forecasts"))
        await story.begin()
        await story.pause("attempt 1 failed")
        site.start()
        await publisher.flush()

        async with watched(site.url) as watch:
            await watch.until(story.run_id, Status.RUNNING)
            await past_its_lease(watch)
            assert (await watch.until(story.run_id, Status.RUNNING, Status.FAILED)).status is Status.RUNNING
            assert await watch.leases() == 0


async def test_a_run_is_held_in_another_life_of_the_store(redis_url: str, real_store: RedisStore) -> None:
    watch, config = Watch(real_store), PublisherConfig(lease_s=LEASE_S)
    async with AsyncPublisher(redis_url, "forecasts", config=config) as publisher, publisher.track() as run:
        await happens(watch.is_held)
        await real_store.client.flushall()

        await happens(watch.is_held)

        assert not run.is_cancelled


async def test_of_a_run_that_has_ended_no_lease_is_taken(real_store: RedisStore) -> None:
    run_id = RunId(str(uuid4()))
    ended = make_event(run_id, "success", {"project_name": "forecasts"})
    await real_store.log.append(run_id, encode_event(ended))
    watch = Watch(real_store)
    await watch.projector.drain()
    holding = Holding(run_id=run_id, project_name="forecasts", attempt=1, token="late")

    assert await RedisHolding(real_store).hold_each([holding], worker="w", lease_ms=60_000) == [Standing.LOST]
    assert await watch.leases() == 0


async def test_a_beginning_that_comes_late_takes_no_lease_from_whoever_has_it(
    redis_url: str, real_store: RedisStore
) -> None:
    run_id = RunId(str(uuid4()))
    holding = Holding(run_id=run_id, project_name="forecasts", attempt=1, token="early")
    await RedisHolding(real_store).hold_each([holding], worker="w", lease_ms=60_000)

    async with AsyncPublisher(redis_url) as publisher:
        await publisher.send(running(run_id, HOLD))

    lease = real_store.meta.keys_of(run_id).lease(to_bytes(run_id))
    assert await real_store.client.hget(lease, "token") == b"early"


async def test_a_lease_that_can_never_be_taken_holds_up_no_beginning(redis_url: str, real_store: RedisStore) -> None:
    run_id = RunId(str(uuid4()))
    await real_store.client.set(real_store.meta.keys_of(run_id).leases, "poison")

    async with AsyncPublisher(redis_url, config=PublisherConfig(spool_bytes=0)) as publisher:
        published = await publisher.send(running(run_id, HOLD))

    assert published.cursor is not None


def test_what_waits_in_a_spool_says_by_whom_its_run_is_held() -> None:
    event = running(str(uuid4()), HOLD)

    assert decode_waiting(encode_waiting(event)) == event


@pytest.mark.parametrize("text", [b'"hold":7', b'"hold":["t"]', b'"hold":null', b'"more":1'])
def test_what_another_version_says_of_holding_loses_no_event(text: bytes) -> None:
    event = running(str(uuid4()))

    assert decode_waiting(encode_waiting(event)[:-1] + b"," + text + b"}") == event


def test_the_log_is_told_nothing_of_leases() -> None:
    assert b"hold" not in encode_event(running(str(uuid4()), HOLD))


def test_what_is_asked_last_of_a_run_that_does_not_end_counts() -> None:
    one, two = str(uuid4()), str(uuid4())
    over = Hold(token="t", worker="w", term_ms=0)
    end = make_event(two, "success", {"project_name": "forecasts"})

    asked = holds_of([running(one, HOLD), running(two, HOLD), running(one), end, running(one, over)])

    assert {run_id: hold for run_id, (_, hold) in asked.items()} == {one: over}
