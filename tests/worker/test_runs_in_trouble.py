"""Runs whose worker dies, freezes or is told to stop, whose time is over, or that somebody else ends."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.status import Status
from runstore.dispatch import Dispatch, DispatchConfig, ServedProject, Standing
from runstore_worker import Project
from tests.worker.conftest import Repo, Witness
from tests.worker.site import LEASE_MS, Site, happens

WAITS = "import time; print('begun', flush=True); time.sleep(60)"
ONCE = "import os, pathlib, sys, time\nplace = pathlib.Path({place!r})\nif place.exists(): sys.exit()\nplace.touch()\n"


@pytest.fixture
async def site(redis_url: str, tmp_path: Path, repo: Repo) -> AsyncIterator[Site]:
    repo.commit(**{"model.py": "print('main')"})
    async with RedisStore.open(redis_url) as store:
        opened = Site(redis_url, store, tmp_path, repo.path)
        async with opened.projector, opened.reaper, opened.stack:
            yield opened


def witnessed(site: Site, witness: Witness, code: str, **settings: Any) -> Project:
    return site.project(witness.argv(code)[-1], **settings)


async def test_nothing_of_a_run_outlives_its_worker_not_even_what_left_its_session(site: Site, witness) -> None:
    project = witnessed(site, witness, "child(leave)\nsay('up')\nsignal.pause()")
    process = await site.worker_process(project)
    run_id = await site.ask()
    await asyncio.wait_for(witness.hears("up"), 10)

    process.kill()

    await happens(witness.everybody_is_gone)
    assert (await site.end(run_id)).error_message == "worker lost"


async def test_nothing_of_a_run_outlives_its_time(site: Site, witness) -> None:
    await site.worker(witnessed(site, witness, "child(leave)\nsay('up')\nsignal.pause()", timeout_s=1))

    run = await site.end(await site.ask())

    assert (run.status, run.error_message) == (Status.TIMED_OUT, "no end within 1 s")
    assert witness.everybody_is_gone()


async def test_a_cancel_is_heard_long_before_the_next_heartbeat(site: Site, witness) -> None:
    await site.worker(witnessed(site, witness, "say('up')\nsignal.pause()"), lease_ms=120_000)
    run_id = await site.ask()
    await asyncio.wait_for(witness.hears("up"), 10)

    assert await site.cancel(run_id)

    assert (await site.end(run_id, within_s=5)).status is Status.CANCELLED
    assert witness.everybody_is_gone()


async def test_a_run_that_was_cancelled_while_it_waited_is_never_begun(site: Site, tmp_path: Path) -> None:
    run_id = await site.ask()
    await site.until(run_id, lambda run: True)
    assert not await site.cancel(run_id)
    await site.store.log.append(run_id, b'{"run_id":"%s","status":"cancelled"}' % run_id.encode())
    await site.end(run_id)

    await site.worker(site.project(f"open({str(tmp_path)!r} + '/' + __import__('os').environ['RUNSTORE_RUN_ID'], 'x')"))
    other = await site.ask()

    assert (await site.end(other)).status is Status.SUCCESS
    assert (tmp_path / other).exists()
    assert not (tmp_path / run_id).exists()


async def test_a_run_that_timed_out_in_the_queue_is_never_begun(site: Site, tmp_path: Path) -> None:
    run_id = await site.ask(queue_timeout_s=0.2)
    assert (await site.end(run_id)).status is Status.TIMED_OUT

    await site.worker(site.project(f"open({str(tmp_path)!r} + '/' + __import__('os').environ['RUNSTORE_RUN_ID'], 'x')"))
    other = await site.ask(queue_timeout_s=60)

    assert (await site.end(other)).status is Status.SUCCESS
    assert not (tmp_path / run_id).exists()


async def test_a_cancel_that_a_dead_worker_cannot_hear_is_not_forgotten(site: Site) -> None:
    process = await site.worker_process(site.project(WAITS, attempts=3))
    run_id = await site.ask()
    await site.running(run_id)
    process.kill()
    await process.wait()

    assert await site.cancel(run_id)

    run = await site.end(run_id)
    assert (run.status, run.error_message) == (Status.CANCELLED, "cancelled on request")


async def test_a_worker_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(
    site: Site, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    says = f"import os; open({str(begun)!r} + '/' + os.environ['RUNSTORE_RUN_ID'], 'x')"
    project = site.project(f"{says}\n{WAITS}")
    living, killed = (
        await site.worker_process(project, concurrency=1),
        await site.worker_process(project, concurrency=1),
    )
    for run_id in [await site.ask(), await site.ask()]:
        # a worker says `running` before it starts the command, and what it has just forked holds its lock for a moment
        await happens((begun / run_id).exists, within_s=20)
    assert len(site.left_behind()) == 2
    killed.kill()
    await killed.wait()

    await site.worker(site.project("", name="other"))

    assert len(site.left_behind()) == 1
    assert living.returncode is None


async def test_a_worker_that_thaws_says_nothing_about_a_run_that_another_has_ended(
    site: Site, witness, tmp_path: Path
) -> None:
    code = ONCE.format(place=str(tmp_path / "begun")) + "say('up')\nsignal.pause()"
    project = witnessed(site, witness, code, attempts=2)
    frozen = await site.worker_process(project)
    run_id = await site.ask()
    await asyncio.wait_for(witness.hears("up"), 10)
    await site.running(run_id)

    frozen.send_signal(signal.SIGSTOP)
    await site.worker(project, name="second")
    run = await site.end(run_id)
    assert not witness.everybody_is_gone()
    frozen.send_signal(signal.SIGCONT)

    await happens(witness.everybody_is_gone)
    frozen.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(frozen.wait(), 10) == 0
    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert [item.ignored for item in await site.history(run_id)] == ["", "", "", ""]


async def test_a_run_that_a_stopping_worker_gives_back_waits_for_no_lease(site: Site, tmp_path: Path) -> None:
    project = site.project(ONCE.format(place=str(tmp_path / "begun")) + "time.sleep(60)", attempts=2)
    first = await site.worker(project, lease_ms=120_000)
    run_id = await site.ask()
    await happens((tmp_path / "begun").exists)

    await first.stop()
    await site.worker(project, lease_ms=120_000)

    run = await site.end(run_id, within_s=5)
    assert (run.status, run.attempt) == (Status.SUCCESS, 2)


async def test_a_worker_that_sends_heartbeats_but_no_end_does_not_hold_a_run_for_ever(site: Site) -> None:
    config = DispatchConfig(name="stuck", lease_ms=LEASE_MS, deadline_slack_s=0.1)
    async with Dispatch.open(site.redis_url, config) as dispatch:
        await dispatch.register([ServedProject(name="forecasts", timeout_s=0.3, grace_s=0)])
        run_id = await site.ask()
        claim = await asyncio.wait_for(dispatch.claim(), 5)
        assert await dispatch.begin(claim) is Standing.HELD

        async with asyncio.timeout(10):
            while await dispatch.heartbeat(claim) is not Standing.LOST:
                await dispatch.heard(claim, 0.1)

    assert (await site.end(run_id)).status is Status.TIMED_OUT


async def test_the_commit_or_branch_that_was_asked_for_is_executed(site: Site, repo: Repo) -> None:
    old = repo.git("rev-parse", "HEAD")
    repo.git("checkout", "-q", "-b", "side")
    side = repo.commit(**{"model.py": "print('side')"})
    repo.git("checkout", "-q", "main")
    new = repo.commit(**{"model.py": "print('new')"})
    await site.worker(site.project("import runpy; runpy.run_path('model.py')"))

    asked = [
        (await site.ask(commit_sha=old[:9]), old, "main\n"),
        (await site.ask(branch="side"), side, "side\n"),
        (await site.ask(), new, "new\n"),
    ]

    for run_id, sha, said in asked:
        run = await site.end(run_id)
        assert (run.status, run.commit_sha) == (Status.SUCCESS, sha)
        assert (await site.output(run))["stdout"] == said


async def test_runs_are_begun_in_the_order_in_which_they_were_asked_for(site: Site, tmp_path: Path) -> None:
    ids = []
    for _ in range(8):
        ids.append(await site.ask())
        await site.until(ids[-1], lambda run: True)
    order = tmp_path / "order"
    code = f"import os\nwith open({str(order)!r}, 'a') as file: print(os.environ['RUNSTORE_RUN_ID'], file=file)"

    await site.worker(site.project(code), concurrency=1)

    created = {run_id: (await site.end(run_id)).created_ms for run_id in ids}
    began = [created[run_id] for run_id in order.read_text().split()]
    assert len(began) == 8
    assert began == sorted(began)
