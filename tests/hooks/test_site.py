"""The site itself: what the tests of all hooks stand on."""

import os
import signal

from runstore import Publisher
from runstore.core.status import Status
from tests.hooks.process import session_of
from tests.hooks.site import Site

TASK = "3f0d3a3e-8a4f-4b53-9c1d-0d9a4a0f6c11"


async def test_a_run_that_was_told_while_the_store_was_away_is_there_when_it_is_back(site: Site) -> None:
    code = """
import runstore
from tests.hooks.tasks import hear, say
publisher = runstore.Publisher()
with publisher.track(run_id="3f0d3a3e-8a4f-4b53-9c1d-0d9a4a0f6c11"):
    say("begun")
    hear("end")
print("told", flush=True)
hear("leave")
"""
    await site.stop_store()
    process = await site.start("-c", code)
    await site.hears("begun")
    await site.say("end")
    await process.says("told")

    await site.start_store()

    assert (await site.ends(TASK)).status is Status.SUCCESS
    assert await site.story(TASK) == ["running 1", "success"]
    assert (await site.output(TASK))["status"] == "success"
    await site.say("leave")


async def test_a_frozen_store_goes_on_where_it_was(site: Site) -> None:
    site.freeze_store()
    site.thaw_store()
    with Publisher() as publisher:
        publisher.publish(TASK.upper(), "running")

    assert (await site.reaches(TASK, "running", attempt=1)).project_name == "forecasts"


async def test_a_worker_is_killed_with_children_that_left_its_group(site: Site) -> None:
    code = """
import os, signal
if os.fork() == 0:
    os.setpgrp()
    print("ready", flush=True)
signal.pause()
"""
    process = await site.start("-c", code, ready="ready")
    (child,) = process.children()
    assert os.getpgid(child) != os.getpgid(process.pid)

    await process.kill()

    assert session_of(process.pid) == []


async def test_a_worker_can_be_asked_to_end(site: Site) -> None:
    process = await site.start("-c", "import time; print('ready', flush=True); time.sleep(60)", ready="ready")

    assert await process.stop() == -signal.SIGTERM
