"""Publishing while nothing else is on its way: the caller carries its event, and the pump takes over what fails."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from runstore import AsyncPublisher, PublisherConfig
from runstore.publish.asynchronous import PublishedEvent
from tests.publish.site import Site, events_in

PATIENT = PublisherConfig(patience_s=30, timeout_s=60)


@pytest.fixture
async def publisher(site: Site) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(site.url, "forecasts", config=PATIENT) as opened:
        await opened.publish(str(uuid4()), "running")  # connects, and begins the pump
        yield opened


async def test_events_that_are_published_one_after_another_need_no_task(publisher: AsyncPublisher) -> None:
    run_id, begun = str(uuid4()), []
    await publisher.publish(run_id, "pending")  # asks for the epoch of its partition

    def begin(loop: asyncio.AbstractEventLoop, work: object, **told: object) -> asyncio.Task[object]:
        begun.append(work)
        return asyncio.Task(work, loop=loop, **told)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    loop.set_task_factory(begin)  # type: ignore[arg-type]
    try:
        for attempt in range(1, 21):
            await publisher.publish(run_id, "running", attempt=attempt)
    finally:
        loop.set_task_factory(None)

    assert begun == []


async def test_what_a_carrier_that_hangs_up_leaves_stays_in_front_of_what_came_behind(
    site: Site, publisher: AsyncPublisher
) -> None:
    run_id = str(uuid4())
    await publisher.publish(run_id, "pending", event_id="0")
    site.send(signal.SIGSTOP)
    try:
        told = [
            asyncio.create_task(publisher.publish(run_id, "running", attempt=each, event_id=str(each)))
            for each in range(1, 6)
        ]
        await asyncio.sleep(0)  # the first is on its way, and the others are behind it
        told[0].cancel()
        await asyncio.wait(told[:1])
    finally:
        site.send(signal.SIGCONT)

    await asyncio.gather(*told[1:])

    assert told[0].cancelled()
    assert [each for each in await site.logged() if len(each) == 1] == ["0", "1", "2", "3", "4", "5"]


async def test_a_flush_waits_for_what_is_carried(site: Site, publisher: AsyncPublisher) -> None:
    site.send(signal.SIGSTOP)
    try:
        told = asyncio.create_task(publisher.publish(str(uuid4()), "running", event_id="carried"))
        await asyncio.sleep(0)
        flushed = asyncio.create_task(publisher.flush(60))
        await asyncio.sleep(0)
        assert not flushed.done()
    finally:
        site.send(signal.SIGCONT)

    await flushed

    assert "carried" in await site.logged()
    await told


async def test_a_loop_that_ends_without_a_close_keeps_what_was_carried(site: Site, spool_dir: Path) -> None:
    publisher = AsyncPublisher(site.url, "forecasts", config=PATIENT)
    left: list[asyncio.Task[PublishedEvent]] = []

    async def end_midway() -> None:
        await publisher.publish(str(uuid4()), "running")
        site.send(signal.SIGSTOP)
        left.append(asyncio.create_task(publisher.publish(str(uuid4()), "running")))
        await asyncio.sleep(0)

    try:
        await asyncio.to_thread(asyncio.run, end_midway())
    finally:
        site.send(signal.SIGCONT)

    assert events_in(spool_dir) == 1
