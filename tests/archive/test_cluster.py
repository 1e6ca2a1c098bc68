"""Over a cluster: no command of an archiver, a restore or a delete crosses a slot."""

from pathlib import Path

import pytest

from runstore.adapters.keeping import used_bytes
from runstore.adapters.objects import Objects
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from runstore.archive.erasing import Eraser
from runstore.archive.restoring import restore
from tests.archive.site import NOW, Attic
from tests.topology.deployments import clustered
from tests.topology.servers import program_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("program", ["wheel", "installed"])
async def test_runs_leave_come_back_and_are_erased_over_a_cluster(tmp_path: Path, program: str) -> None:
    with clustered(program_of(program), tmp_path / "cluster") as cluster:
        async with RedisStore.open(cluster.url) as store:
            attic = Attic(store, Archive(Objects.open(str(tmp_path / "archive")), NOW))
            told = await attic.ended(range(1, 40))
            told += await attic.ended(range(40, 50), project="other", status="failed")
            assert await used_bytes(store.client) > 1_000_000

            assert (await attic.archiver.turn()).moved == len(told)
            assert sorted(await attic.walk(9)) == sorted(told)
            await attic.tell(told[0], "running")
            await attic.projector.drain()
            assert await store.runs.get_many([told[0]]) == [None]

            assert await restore(store, attic.archive, told[3])
            assert (await Eraser(store, attic.archive).run(told[4])).runs == 1
            assert (await Eraser(store, attic.archive).project("other")).runs == 10
            assert sorted(await attic.walk(9)) == sorted({*told[:39]} - {told[4]})
