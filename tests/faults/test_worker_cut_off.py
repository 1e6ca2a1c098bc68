"""A worker that is cut off from Redis while nobody else is: its run goes on elsewhere, its late words are kept."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.core.run import HistoryItem
from runstore.core.status import Status
from tests.faults.proxy import Proxy
from tests.publish.site import events_in
from tests.waiting import happens
from tests.worker.conftest import Repo
from tests.worker.site import Site

CODE = """
import pathlib, time
folder = pathlib.Path({folder!r})
mine = "first" if not (folder / "began").exists() else "second"
(folder / "began").touch()
print(mine, flush=True)
while not (folder / mine).exists(): time.sleep(0.02)
"""


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    repo = Repo(tmp_path / "theirs")
    repo.commit(**{"model.py": "print('main')"})
    async with RedisStore.open(redis_url) as store:
        opened = Site(redis_url, store, tmp_path, repo.path)
        async with opened.projector, opened.reaper, opened.stack:
            yield opened


async def test_the_late_words_of_a_worker_that_was_cut_off_are_kept_as_ignored(
    site: Site, tmp_path: Path, spool_dir: Path
) -> None:
    (tmp_path / "model").mkdir()
    project = site.project(CODE.format(folder=str(tmp_path / "model")), attempts=2)
    direct = site.redis_url
    async with Proxy(direct) as proxy:
        site.redis_url = proxy.url
        await site.worker_process(project, name="cut off", data_dir=tmp_path / "one")
        run_id = await site.ask()
        await site.running(run_id)

        proxy.cut()
        site.redis_url = direct
        await site.worker_process(project, name="another", data_dir=tmp_path / "two")
        await site.running(run_id, attempt=2)
        (tmp_path / "model" / "first").touch()
        await happens(lambda: events_in(spool_dir) > 0)
        proxy.mend()

        late: list[HistoryItem] = []

        async def has_come() -> bool:
            late[:] = [item for item in await site.history(run_id) if item.ignored]
            return bool(late)

        await happens(has_come, 30)
        (tmp_path / "model" / "second").touch()
        run = await site.end(run_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 2)
    assert [(item.status, item.attempt) for item in late] == [(Status.SUCCESS, 1)]
    assert (await site.output(run))["stdout"] == "second\n"


async def test_a_worker_that_was_cut_off_for_less_than_a_lease_keeps_its_run(site: Site, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    project = site.project(CODE.format(folder=str(tmp_path / "model")), attempts=2)
    async with Proxy(site.redis_url) as proxy:
        site.redis_url = proxy.url
        await site.worker_process(project, lease_ms=60_000)
        run_id = await site.ask()
        await site.running(run_id)

        proxy.cut()
        (tmp_path / "model" / "first").touch()
        proxy.mend()

        run = await site.end(run_id)

    assert (run.status, run.attempt) == (Status.SUCCESS, 1)
