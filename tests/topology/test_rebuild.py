"""`rebuild` looks at all of a cluster."""

from pathlib import Path

import pytest

from runstore.adapters.store import RedisStore
from runstore.projector import Projector
from runstore.rebuild import Rebuild
from tests.projector.builders import event_of, run_id_of
from tests.topology.deployments import Clustered


@pytest.mark.parametrize("program", ["wheel"], indirect=True)
async def test_a_run_that_no_event_tells_of_is_found_on_every_server(cluster: Clustered, program: Path) -> None:
    async with RedisStore.open(cluster.url) as store:
        partitions = range(store.meta.partitions)
        strays = [run_id_of(2, partition=partition) for partition in partitions]
        for number in (1, 2, 3):
            for partition in partitions:
                run_id = run_id_of(number, partition=partition)
                await store.log.append(run_id, event_of(run_id, "success"))
        await Projector(store).drain()
        for run_id in strays:
            events = store.meta.keys_of(run_id).events
            (stray,) = [row[0] for row in await store.client.xrange(events) if run_id.encode() in row[1][b"event"]]
            await store.client.xdel(events, stray)

        report = await Rebuild(store).run()

    assert sorted(difference.run_id for difference in report.differences) == sorted(strays)
