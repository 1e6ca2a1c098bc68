"""The scripts of those who may send none are known to every server that takes writes."""

import asyncio
from pathlib import Path

import pytest

from runstore.adapters.dispatch import RedisDispatch
from runstore.adapters.scripts import SHARED
from runstore.adapters.store import RedisStore
from runstore.loading import Loading
from tests.deploy.secured import secured
from tests.topology.deployments import clustered
from tests.topology.servers import programs


async def test_what_is_missing_is_loaded_and_nothing_else(store: RedisStore) -> None:
    loading = Loading(store)
    await store.client.execute_command("SCRIPT FLUSH")

    first, second = await loading.turn(), await loading.turn()
    await store.client.execute_command("SCRIPT FLUSH")
    third = await loading.turn()

    assert (first, second, third) == (len(SHARED), 0, len(SHARED))


async def test_who_may_send_no_script_waits_for_a_projector_that_loads_it(tmp_path: Path) -> None:
    program = next(iter(programs().values()), None)
    if program is None:
        pytest.skip("no server can be started on this machine")
    with secured(program, tmp_path / "server") as server:
        async with (
            RedisStore.open(server.url_of("projector")) as ours,
            RedisStore.open(server.url_of("worker")) as store,
        ):
            claim = RedisDispatch(store).claim(0, "p", worker="w", attempts=1, lease_ms=1000, deadline_ms=1000)

            claimed, loaded = await asyncio.gather(claim, Loading(ours).turn())

    assert (claimed, loaded) == (None, len(SHARED))


@pytest.mark.slow
async def test_each_primary_of_a_cluster_is_taught(tmp_path: Path) -> None:
    program = next(iter(programs().values()), None)
    if program is None:
        pytest.skip("no server can be started on this machine")
    with clustered(program, tmp_path) as cluster:
        async with RedisStore.open(cluster.url) as store:
            first, second = await Loading(store).turn(), await Loading(store).turn()

    assert (first, second) == (3 * len(SHARED), 0)
