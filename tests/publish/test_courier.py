"""Publishing while the store comes and goes: a real server that is stopped, frozen and started again."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

import pytest

from runstore import AsyncPublisher, InvalidRequest, Publisher, PublisherConfig, StoreUnavailable
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.status import Status
from runstore.projector import Projector
from runstore.wire.event import decode_event
from tests.faults.proxy import Proxy
from tests.publish.site import Site, events_in, program
from tests.relay import PIECE_BYTES
from tests.waiting import happens

CONFIG = PublisherConfig(patience_s=0.5, backoff_s=0.01, max_backoff_s=0.05)


@pytest.fixture
async def publisher(site: Site) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(site.url, "forecasts", config=CONFIG) as opened:
        yield opened


async def test_an_event_is_safe_at_once_while_the_store_is_away_and_sent_when_it_is_back(
    site: Site, publisher: AsyncPublisher, spool_dir: Path
) -> None:
    run_id = str(uuid4())
    await publisher.publish(run_id, "running")
    site.stop()

    published = await publisher.publish(run_id, "success", output={"outputs": {"revenue": [1]}})

    assert published.cursor is None
    assert events_in(spool_dir) == 1
    site.start()
    await publisher.flush(20)
    assert await site.statuses(run_id) == ["running", "success"]
    assert events_in(spool_dir) == 0


async def test_events_arrive_in_order_across_an_outage(site: Site, publisher: AsyncPublisher) -> None:
    run_id, told = str(uuid4()), []

    async def tell(count: int) -> None:
        for attempt in range(len(told) + 1, len(told) + 1 + count):
            event = await publisher.publish(run_id, "running", attempt=attempt)
            told.append(event.event_id)

    await tell(5)
    site.stop()
    await tell(20)
    site.start()
    await tell(20)
    await publisher.flush(20)

    assert await site.logged() == told


async def test_those_who_publish_all_the_while_get_off_the_spool_when_the_store_is_back(
    site: Site, publisher: AsyncPublisher
) -> None:
    is_told, told = asyncio.Event(), 0

    async def tell_on() -> None:
        nonlocal told
        while not is_told.is_set():
            published = await publisher.publish(str(uuid4()), "success")
            told = told + 1 if published.cursor is not None else 0
            if told > 100:
                is_told.set()

    site.stop()
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        for _ in range(8):
            group.create_task(tell_on())
        site.start()
        await is_told.wait()


async def test_nobody_waits_for_a_frozen_store(site: Site, publisher: AsyncPublisher, spool_dir: Path) -> None:
    await publisher.publish(str(uuid4()), "running")
    site.send(signal.SIGSTOP)
    try:
        await publisher.publish(str(uuid4()), "running")

        began = time.monotonic()
        await asyncio.gather(*(publisher.publish(str(uuid4()), "running") for _ in range(100)))
        took_s = time.monotonic() - began
    finally:
        site.send(signal.SIGCONT)

    assert took_s < 5, "each would have waited for the store"
    await publisher.flush(20)
    assert events_in(spool_dir) == 0


async def test_an_acknowledgement_by_the_store_itself_can_be_asked_for(site: Site, publisher: AsyncPublisher) -> None:
    run_id = str(uuid4())
    published = await publisher.publish(run_id, "running", acknowledged_within_s=20)
    assert published.cursor is not None
    site.stop()

    with pytest.raises(StoreUnavailable, match="acknowledge"):
        await publisher.publish(run_id, "success", acknowledged_within_s=0.05)

    site.start()
    await publisher.flush(20)
    assert await site.statuses(run_id) == ["running", "success"]


async def test_what_a_process_left_is_sent_by_the_next_one(site: Site, spool_dir: Path) -> None:
    run_id = str(uuid4())
    site.stop()
    code = f"""
import os, runstore
publisher = runstore.Publisher({site.url!r}, "forecasts")
publisher.publish({run_id!r}, "success", output={{"stdout": "x" * 100_000}})
os._exit(0)
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, timeout=30)
    assert events_in(spool_dir) == 1
    site.start()

    async with AsyncPublisher(site.url, "forecasts") as publisher:
        await publisher.publish(str(uuid4()), "running")
        await happens(lambda: events_in(spool_dir) == 0)

    assert await site.statuses(run_id) == ["success"]


def test_a_publisher_that_is_closed_while_the_store_is_away_keeps_everything(site: Site, spool_dir: Path) -> None:
    site.stop()
    with Publisher(site.url, "forecasts", config=CONFIG) as publisher:
        for _ in range(3):
            publisher.publish(str(uuid4()), "running")

    assert events_in(spool_dir) == 3


async def test_a_loop_that_ends_without_a_close_keeps_what_was_on_its_way(site: Site, spool_dir: Path) -> None:
    site.stop()

    def work() -> None:
        async def leave() -> None:
            publisher = AsyncPublisher(site.url, "forecasts", config=CONFIG)
            asyncio.get_running_loop().create_task(publisher.publish(str(uuid4()), "running"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        asyncio.run(leave())

    await asyncio.to_thread(work)

    assert events_in(spool_dir) == 1


@pytest.mark.parametrize("store", ["away", "there"])
async def test_a_process_that_ends_without_a_close_loses_nothing(site: Site, spool_dir: Path, store: str) -> None:
    run_id = str(uuid4())
    if store == "away":
        site.stop()
    code = f"""
from runstore.hooks.reporter import Reporter
reporter = Reporter({site.url!r}, "forecasts")
reporter.began({run_id!r})
reporter.succeeded({run_id!r}, 1)
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert "Traceback" not in done.stderr
    assert events_in(spool_dir) == (2 if store == "away" else 0)
    if store == "away":
        site.start()
        async with AsyncPublisher(site.url) as publisher:
            await publisher.deliver_abandoned()
    assert await site.statuses(run_id) == ["running", "success"]


async def test_a_process_that_ends_without_a_close_holds_its_runs_until_all_is_told(site: Site) -> None:
    run_id = str(uuid4())
    code = f"""
from runstore import Publisher
publisher = Publisher({site.url!r}, "forecasts")
with publisher.track(run_id={run_id!r}):
    pass
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stderr == ""
    assert await site.statuses(run_id) == ["running", "success"]


async def test_an_address_that_cannot_be_one_is_refused_at_once() -> None:
    async with AsyncPublisher("redis://127.0.0.1:0", "forecasts") as publisher:
        with pytest.raises(InvalidRequest, match="port"):
            await publisher.publish(str(uuid4()), "running")


async def test_a_flush_waits_for_what_was_published_before_it_and_not_for_what_came_after(
    site: Site, publisher: AsyncPublisher
) -> None:
    async def go_on() -> None:
        while True:
            await publisher.publish(str(uuid4()), "running")

    others = [asyncio.create_task(go_on()) for _ in range(5)]
    await asyncio.sleep(0)
    mine = asyncio.create_task(publisher.publish(str(uuid4()), "success"))
    await asyncio.sleep(0)

    await publisher.flush(20)

    assert mine.done()
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def test_a_spool_that_cannot_keep_anything_is_told_loudly_and_the_store_is_waited_for(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    config = PublisherConfig(spool_dir=str(tmp_path / "file"), patience_s=0.1, timeout_s=30, max_backoff_s=0.05)
    run_id = str(uuid4())
    site.stop()
    async with AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        waits = asyncio.create_task(publisher.publish(run_id, "success"))
        await happens(lambda: "spool_failed" in caplog.text)
        site.start()

        assert (await waits).cursor is not None
        assert await site.statuses(run_id) == ["success"]


async def test_a_log_that_refuses_events_keeps_none_of_another_partition(site: Site, spool_dir: Path) -> None:
    config = PublisherConfig(patience_s=0.2, backoff_s=0.01, max_backoff_s=0.02)
    async with RedisStore.open(site.url) as store, AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        run_ids = [str(uuid4()) for _ in range(64)]
        poisoned = store.meta.keys_of(RunId(run_ids[0]))
        await store.client.set(poisoned.events, "poison")
        healthy = [run_id for run_id in run_ids if store.meta.keys_of(RunId(run_id)) is not poisoned]

        await asyncio.gather(*(publisher.publish(run_id, "success") for run_id in run_ids))
        await happens(lambda: events_in(spool_dir) == len(run_ids) - len(healthy))
        await store.client.delete(poisoned.events)
        await publisher.flush(20)

        await Projector(store).drain()
        found = await store.runs.get_many([RunId(run_id) for run_id in run_ids])
        assert {record.run.status for record in found if record is not None} == {Status.SUCCESS}
        assert None not in found


@pytest.mark.slow
@pytest.mark.parametrize("key", ["events", "cursor"])
async def test_more_refused_events_than_a_batch_holds_are_in_nobodys_way(site: Site, key: str) -> None:
    config = PublisherConfig(patience_s=0.2, backoff_s=0.01, max_backoff_s=0.02, batch_events=4)
    async with RedisStore.open(site.url) as store, AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        run_ids = [RunId(str(uuid4())) for _ in range(200)]
        poisoned = store.meta.keys_of(run_ids[0])
        healthy = [run_id for run_id in run_ids if store.meta.keys_of(run_id) is not poisoned]
        ill = [run_id for run_id in run_ids if store.meta.keys_of(run_id) is poisoned]
        await store.client.set(getattr(poisoned, key), "poison")

        for status in ("running", "success"):
            await asyncio.gather(*(publisher.publish(run_id, status) for run_id in (*ill, *healthy)))

        async def healthy_are_told() -> bool:
            logs = [keys.events for keys in store.meta.keys if keys is not poisoned]
            rows = [row for log in logs for row in await store.client.xrange(log)]
            return len({decode_event(fields[b"event"])[0].event_id for _, fields in rows}) == 2 * len(healthy)

        await happens(healthy_are_told)
        await store.client.delete(getattr(poisoned, key))
        await publisher.flush(20)

        await Projector(store).drain()
        for run_id in run_ids:
            assert await site.statuses(run_id) == ["running", "success"]


async def test_the_next_process_sends_what_was_left_though_it_ends_at_once(site: Site, spool_dir: Path) -> None:
    site.stop()
    code = """
publisher = Publisher(URL, "forecasts")
for _ in range(600):
    publisher.publish(str(uuid4()), "success")
os._exit(0)
"""
    await program(site, code)
    assert events_in(spool_dir) == 600
    site.start()

    code = """
with Publisher(URL, "forecasts", config=PublisherConfig(patience_s=30)) as publisher:
    publisher.publish(str(uuid4()), "success")
"""
    await program(site, code)

    assert events_in(spool_dir) == 0
    assert len(set(await site.logged())) == 601


async def test_whoever_asks_for_what_was_left_to_be_sent_waits_for_what_is_being_sent_already(
    site: Site, spool_dir: Path
) -> None:
    site.stop()
    code = """
publisher = Publisher(URL, "forecasts", config=PublisherConfig(backoff_s=0.01))
for _ in range(300):
    publisher.publish(str(uuid4()), "success")
os._exit(0)
"""
    await program(site, code)
    site.start()
    async with AsyncPublisher(site.url, "forecasts", config=PublisherConfig(batch_events=8)) as publisher:
        await publisher.publish(str(uuid4()), "success")
        await happens(lambda: 0 < events_in(spool_dir) < 300)

        assert await publisher.deliver_abandoned()

        assert events_in(spool_dir) == 0


async def test_a_process_ends_without_waiting_for_a_store_that_is_away(site: Site, spool_dir: Path) -> None:
    site.stop()
    code = """
publisher = Publisher(URL, "forecasts", config=PublisherConfig(patience_s=300))
publisher.publish(str(uuid4()), "success")
"""

    done = await program(site, code)

    assert "clean_up_failed" not in done.stderr
    assert events_in(spool_dir) == 1


class Narrow(Proxy):
    """A way that goes dumb where more than 16 KiB come at once."""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while data := await reader.read(PIECE_BYTES):
            if len(data) > PIECE_BYTES // 4 and not is_reply:
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()


async def test_what_waits_goes_in_smaller_batches_where_a_whole_one_is_never_answered(
    site: Site, spool_dir: Path
) -> None:
    async with Narrow(site.url) as way, AsyncPublisher(way.url, "forecasts", config=CONFIG) as publisher:
        way.cut()
        output = {"stdout": token_hex(500)}
        await asyncio.gather(*(publisher.publish(str(uuid4()), "success", output=output) for _ in range(32)))
        assert events_in(spool_dir) == 32

        way.mend()
        await publisher.flush(60)

    assert len(await site.logged()) == 32


async def test_callers_who_wait_for_room_keep_their_order(site: Site) -> None:
    config = PublisherConfig(queue_bytes=5_000, batch_bytes=2_000)
    run_id = str(uuid4())
    async with AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        told, tasks = [f"{number}" for number in range(1000)], []

        for event_id in told:
            tasks.append(asyncio.create_task(publisher.publish(run_id, "running", event_id=event_id)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    assert await site.logged() == told


async def test_large_outputs_go_in_few_round_trips_too(site: Site, publisher: AsyncPublisher) -> None:
    await publisher.publish(str(uuid4()), "running")
    output = {"stdout": "x" * 20_000}
    async with RedisStore.open(site.url) as store:
        before = (await store.client.info("stats"))["total_writes_processed"]

        await asyncio.gather(*(publisher.publish(str(uuid4()), "success", output=output) for _ in range(200)))

        after = (await store.client.info("stats"))["total_writes_processed"]
    assert after - before < 100


async def test_many_at_once_go_in_few_round_trips(site: Site) -> None:
    patient = PublisherConfig(patience_s=30)  # a store on a machine that is busy is not away
    async with AsyncPublisher(site.url, "forecasts", config=patient) as publisher, RedisStore.open(site.url) as store:
        await publisher.publish(str(uuid4()), "running")
        before = (await store.client.info("stats"))["total_reads_processed"]

        events = await asyncio.gather(*(publisher.publish(str(uuid4()), "running") for _ in range(500)))

        after = (await store.client.info("stats"))["total_reads_processed"]
    assert len({event.cursor for event in events}) == 500
    assert after - before < 100


async def test_a_caller_that_hangs_up_takes_nothing_back(site: Site, publisher: AsyncPublisher) -> None:
    run_ids = [str(uuid4()) for _ in range(50)]
    tasks = [asyncio.create_task(publisher.publish(run_id, "success")) for run_id in run_ids]
    await asyncio.sleep(0)

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await publisher.flush(20)

    async with RedisStore.open(site.url) as store:
        await Projector(store).drain()
        found = await store.runs.get_many([RunId(run_id) for run_id in run_ids])
    assert [record.run.status for record in found if record] == [Status.SUCCESS] * 50


async def test_memory_is_bounded_and_publishing_waits_for_room(site: Site) -> None:
    config = PublisherConfig(queue_bytes=100_000, batch_bytes=50_000, inline_output_bytes=100_000)
    async with AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        output = {"stdout": "x" * 20_000}

        events = await asyncio.gather(*(publisher.publish(str(uuid4()), "success", output=output) for _ in range(100)))

    assert all(event.cursor for event in events)
    assert len(await site.logged()) == 100
