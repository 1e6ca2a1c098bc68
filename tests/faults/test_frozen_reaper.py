"""A reaper's process frozen between look and deed, and thawed when the world has moved on: no healthy run is killed."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.status import Status
from runstore.reaper import Reaper, ReaperConfig
from tests.cli.processes import PATIENT
from tests.waiting import happens
from tests.worker.conftest import Repo
from tests.worker.site import LEASE_MS, Site

pytestmark = [pytest.mark.slow, PATIENT]

WAITS = """
import pathlib, time
folder = pathlib.Path({folder!r})
mine = "first" if not (folder / "began").exists() else "second"
(folder / "began").touch()
while not (folder / mine).exists(): time.sleep(0.02)
"""
REAPER = """
import asyncio, os, signal, sys
from runstore.adapters.store import RedisStore
from runstore.reaper import Reaper, ReaperConfig
async def main():
    async with RedisStore.open(sys.argv[1]) as store:
        reaper = Reaper(store, ReaperConfig(every_ms=100, lease_ms=int(sys.argv[2])))
        look = reaper._redis.look
        async def look_and_freeze(now_ms):
            sight = await look(now_ms)
            if sight.leases and now_ms >= reaper._resume_ms:
                os.kill(os.getpid(), signal.SIGSTOP)
            return sight
        reaper._redis.look = look_and_freeze
        async with reaper:
            print("ready", flush=True)
            await reaper.wait()
asyncio.run(main())
"""


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    repo = Repo(tmp_path / "theirs")
    repo.commit(**{"model.py": "print('main')"})
    (tmp_path / "model").mkdir()
    async with RedisStore.open(redis_url) as store:
        opened = Site(redis_url, store, tmp_path, repo.path)
        async with opened.projector, opened.stack:
            yield opened


@asynccontextmanager
async def frozen_after_its_look(site: Site) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a reaper that freezes as soon as it has seen a lease that is past."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", REAPER, site.redis_url, str(LEASE_MS)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        yield process
    finally:
        process.kill()
        await process.wait()


def is_frozen(process: asyncio.subprocess.Process) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def leases_past(site: Site) -> bool:
    now = int((await site.store.client.execute_command("TIME"))[0])
    past = [await site.store.client.zcount(keys.leases, "-inf", now * 1000) for keys in site.store.meta.keys]
    return any(past)


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_worker_that_was_only_late_keeps_its_run_though_the_reaper_saw_its_lease_past(
    site: Site, tmp_path: Path, attempts: int
) -> None:
    code = WAITS.format(folder=str(tmp_path / "model"))
    worker = await site.worker_process(site.project(code, attempts=attempts, timeout_s=300))
    run_id = await site.ask()
    await site.running(run_id)
    async with frozen_after_its_look(site) as reaper:
        worker.send_signal(signal.SIGSTOP)
        await happens(lambda: is_frozen(reaper), 60)
        worker.send_signal(signal.SIGCONT)

        async def is_held_again() -> bool:
            return not await leases_past(site)

        await happens(is_held_again, 60)
        reaper.send_signal(signal.SIGCONT)
        await asyncio.sleep(2 * LEASE_MS / 1000)  # in which nothing is to happen
        (tmp_path / "model" / "first").touch()
        run = await site.end(run_id, within_s=60)

    assert (run.status, run.attempt) == (Status.SUCCESS, 1)
    assert [item.status for item in await site.history(run_id)] == ["pending", "running", "success"]


async def test_a_reaper_that_is_thawed_does_what_is_still_to_be_done(site: Site, tmp_path: Path) -> None:
    worker = await site.worker_process(site.project(WAITS.format(folder=str(tmp_path / "model")), timeout_s=300))
    run_id = await site.ask()
    await site.running(run_id)
    async with frozen_after_its_look(site) as reaper:
        worker.kill()
        await happens(lambda: is_frozen(reaper), 60)
        assert not (await site.running(run_id)).is_terminal

        reaper.send_signal(signal.SIGCONT)
        run = await site.end(run_id, within_s=60)

    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_what_another_reaper_did_meanwhile_is_not_done_again(site: Site, tmp_path: Path) -> None:
    project = site.project(WAITS.format(folder=str(tmp_path / "model")), attempts=2, timeout_s=300)
    first = await site.worker_process(project, name="first", data_dir=tmp_path / "one")
    run_id = await site.ask()
    await site.running(run_id)
    async with frozen_after_its_look(site) as reaper:
        first.send_signal(signal.SIGSTOP)
        await happens(lambda: is_frozen(reaper), 60)
        await site.worker_process(project, name="second", data_dir=tmp_path / "two")
        async with Reaper(site.store, ReaperConfig(every_ms=100, lease_ms=LEASE_MS)) as another:
            await site.running(run_id, attempt=2)

        reaper.send_signal(signal.SIGCONT)
        first.send_signal(signal.SIGCONT)
        await asyncio.sleep(2 * LEASE_MS / 1000)  # in which nothing is to happen
        (tmp_path / "model" / "second").touch()
        run = await site.end(run_id, within_s=60)

    assert another.retried == 1
    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
