"""A publisher at the edges of its process's life: forked, interrupted, used by handlers of signals and of the exit."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from runstore import AsyncPublisher, InvalidRequest, PublisherConfig
from tests.publish.site import BEGINNING, Site, events_in, program
from tests.waiting import happens


@pytest.fixture
async def stuck(site: Site, tmp_path: Path) -> AsyncIterator[AsyncPublisher]:
    """A publisher whose store is away and whose spool takes nothing, so that it waits."""
    (tmp_path / "file").touch()
    config = PublisherConfig(spool_dir=str(tmp_path / "file"), patience_s=0.1, timeout_s=60, max_backoff_s=0.05)
    site.stop()
    async with AsyncPublisher(site.url, "forecasts", config=config) as publisher:
        yield publisher


async def test_a_program_that_tracks_and_never_closes_ends_without_a_word(site: Site) -> None:
    code = """
publisher = Publisher(URL, "forecasts")
with publisher.track() as run:
    print(run.run_id)
"""

    done = await program(site, code)

    assert done.stderr == ""
    assert await site.statuses(done.stdout.strip()) == ["running", "success"]


@pytest.mark.parametrize("when", ["before the publisher ends", "after it"])
async def test_what_is_published_while_the_program_ends_is_sent(site: Site, spool_dir: Path, when: str) -> None:
    run_id = str(uuid4())
    handler = "atexit.register(lambda: publisher.publish(sys.argv[2], 'success', output={'stdout': 'x' * 500_000}))"
    use = "publisher = Publisher(URL, 'forecasts'); publisher.publish(sys.argv[2], 'running')"

    done = await program(site, "\n".join([use, handler] if when.startswith("before") else [handler, use]), run_id)

    assert done.stderr == ""
    assert events_in(spool_dir) == 0
    assert await site.statuses(run_id) == ["running", "success"]


async def test_threads_that_go_on_publishing_do_not_keep_the_program_from_ending(site: Site) -> None:
    code = """
publisher = Publisher(URL, "forecasts")
def publish():
    while True:
        try:
            publisher.publish(str(uuid4()), "success")
        except Exception:
            time.sleep(0.001)
threads = [threading.Thread(target=publish, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
publisher.publish(str(uuid4()), "success")
"""

    await program(site, code, within_s=30)

    assert await site.logged()


async def test_a_forked_child_that_leaves_a_tracked_block_leaves_its_end_to_the_parent(site: Site) -> None:
    code = """
with Publisher(URL, "forecasts").track() as run:
    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    print(run.run_id, flush=True)
    run.exit_code = 3
"""

    done = await program(site, code)

    assert await site.statuses(done.stdout.strip()) == ["running", "success"]


async def test_children_forked_while_other_threads_publish_can_publish(site: Site) -> None:
    code = """
publisher = Publisher(URL, "forecasts")
is_over = False
def publish():
    while not is_over:
        publisher.here()
threads = [threading.Thread(target=publish) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        publisher.publish(str(uuid4()), "success")
        os._exit(0)
    os.waitpid(child, 0)
is_over = True
"""

    await program(site, code)

    assert len(await site.logged()) == 20


async def test_a_handler_of_signals_may_publish_whatever_it_interrupts(site: Site) -> None:
    code = """
publisher = Publisher(URL, "forecasts")
handled = published = 0
def handle(number, frame):
    global handled
    handled += 1
    publisher.publish(str(uuid4()), "cancelled")
    signal.setitimer(signal.ITIMER_REAL, 0.0005 + handled % 7 * 0.0002)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while handled < 500:
    for _ in range(100):
        publisher.here()
    publisher.publish(str(uuid4()), "success")
    published += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(handled + published)
"""

    done = await program(site, code)

    assert len(await site.logged()) == int(done.stdout)


async def test_work_that_is_cancelled_while_it_begins_ends(
    site: Site, stuck: AsyncPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = str(uuid4())

    async def work() -> None:
        async with stuck.track(run_id=run_id):
            raise AssertionError("it never began")

    task = asyncio.create_task(work())
    await happens(lambda: "spool_failed" in caplog.text)
    task.cancel()
    site.start()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await site.statuses(run_id) == ["running", "cancelled"]


async def test_a_ctrl_c_while_the_work_begins_ends_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run_id = str(uuid4())
    site.stop()
    code = """
import logging
class Tell(logging.Handler):
    def emit(self, record):
        print(record.getMessage(), flush=True)
logging.getLogger("runstore").addHandler(Tell())
config = PublisherConfig(spool_dir=sys.argv[3], patience_s=0.1, timeout_s=60, max_backoff_s=0.05)
publisher = Publisher(URL, "forecasts", config=config)
try:
    with publisher.track(run_id=sys.argv[2]):
        print("begun")
except KeyboardInterrupt:
    print("interrupted", publisher.here()[0]._leases._leases)
"""
    argv = [sys.executable, "-c", BEGINNING + code, site.url, run_id, str(tmp_path / "file")]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    while b"spool_failed" not in await asyncio.wait_for(process.stdout.readline(), 30):
        pass

    process.send_signal(signal.SIGINT)
    site.start()

    told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert told.splitlines()[-1] == b"interrupted {}"
    assert await site.statuses(run_id) == ["running", "cancelled"]


async def test_loops_that_come_and_go_leave_no_connection_open(site: Site) -> None:
    code = """
import gc
publisher = AsyncPublisher(URL, "forecasts")
def open_files():
    asyncio.run(publisher.publish(str(uuid4()), "running"))
    gc.collect()
    return len(os.listdir("/dev/fd"))
first = open_files()
print(max(open_files() for _ in range(30)) - first)
"""

    done = await program(site, code)

    assert int(done.stdout) < 5


async def test_a_publisher_that_another_loop_is_using_says_so(site: Site) -> None:
    async with AsyncPublisher(site.url, "forecasts") as publisher:
        await publisher.publish(str(uuid4()), "running")

        with pytest.raises(InvalidRequest, match="another event loop"):
            await asyncio.to_thread(asyncio.run, publisher.publish(str(uuid4()), "running"))

        assert (await publisher.publish(str(uuid4()), "running")).cursor is not None


async def test_work_goes_on_after_the_publisher_was_closed_and_nothing_is_begun_for_it(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    code = """
async def main():
    publisher = AsyncPublisher(URL, "forecasts")
    await publisher.close()
    async with publisher.track():
        print("worked")
    print([thread.name for thread in threading.enumerate() if "runstore" in thread.name])
asyncio.run(main())
"""

    done = await program(site, code)

    assert done.stdout.splitlines() == ["worked", "[]"]
