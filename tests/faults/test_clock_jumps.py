"""Redis's clock jumps an hour, ahead or back: no healthy run is killed, and a dead worker's is not held for an hour."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.status import Status
from tests.chaos.power import Power, build_shim
from tests.chaos.server import Server
from tests.worker.conftest import Repo
from tests.worker.site import LEASE_MS, Site

HOUR_S = 3_600.0
WAITS = "import pathlib, time\nwhile not pathlib.Path({place!r}).exists(): time.sleep(0.02)"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock is set by a preloaded shim")


class Clock:
    """The wall clock of a Redis, and that Redis."""

    def __init__(self, power: Power, server: Server) -> None:
        self.set_ahead = power.step
        self.url = server.url


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_shim(tmp_path_factory.mktemp("shim"))
    if built is None:
        pytest.skip("there is no C compiler to build the shim with")
    return built


@pytest.fixture
def clock(shim: Path, tmp_path: Path) -> Iterator[Clock]:
    data = tmp_path / "redis" / "data"
    power = Power(shim, tmp_path / "power", data)
    server = Server(data, power, fsync="everysec")
    server.start()
    server.ready()
    yield Clock(power, server)
    server.kill()


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "theirs")
    made.commit(**{"model.py": "print('main')"})
    return made


@pytest.fixture
async def site(clock: Clock, tmp_path: Path, repo: Repo) -> AsyncIterator[Site]:
    async with RedisStore.open(clock.url) as store:
        opened = Site(clock.url, store, tmp_path, repo.path)
        async with opened.projector, opened.reaper, opened.stack:
            yield opened


async def terms_go_by(site: Site, terms: float) -> None:
    """Return when the reaper could have ended whatever it would end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + terms * LEASE_MS / 1000
    while loop.time() < until:
        await site.store.ping()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_no_healthy_run_is_ended_when_the_clock_jumps(
    site: Site, clock: Clock, tmp_path: Path, jump_s: float
) -> None:
    place = tmp_path / "end"
    await site.worker(site.project(WAITS.format(place=str(place)), timeout_s=600))
    run_id = await site.ask()
    await site.running(run_id)

    clock.set_ahead(jump_s)
    await terms_go_by(site, 3)
    place.touch()

    run = await site.end(run_id)
    assert (run.status, run.attempt) == (Status.SUCCESS, 1)
    assert (site.reaper.ended, site.reaper.retried) == (0, 0)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_a_dead_workers_run_ends_within_two_leases_though_the_clock_jumped(
    site: Site, clock: Clock, jump_s: float
) -> None:
    process = await site.worker_process(site.project("import time; time.sleep(60)"))
    run_id = await site.ask()
    await site.running(run_id)

    process.kill()
    await process.wait()
    clock.set_ahead(jump_s)

    run = await site.end(run_id)
    assert (run.status, run.error_message) == (Status.FAILED, "worker lost")


async def test_a_run_past_its_time_ends_though_the_clock_was_set_back(site: Site, clock: Clock, tmp_path: Path) -> None:
    await site.worker(site.project("import time; time.sleep(60)", timeout_s=3))
    run_id = await site.ask()
    await site.running(run_id)

    clock.set_ahead(-HOUR_S)

    assert (await site.end(run_id)).status is Status.TIMED_OUT
