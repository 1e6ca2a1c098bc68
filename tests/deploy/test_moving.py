"""What `docs/moving-to-a-cluster.md` says, step by step, on real servers."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runstore import AsyncClient, AsyncPublisher
from runstore.adapters.store import RedisStore
from runstore.client import Run
from runstore.gateway import Gateway, GatewayConfig
from runstore.projector import Projector
from runstore.publish.config import PublisherConfig
from tests.cli.processes import PATIENT, environment, run
from tests.deploy.chroots import ROOT
from tests.topology.deployments import clustered
from tests.topology.servers import Server, free_ports, programs

pytestmark = [PATIENT, pytest.mark.slow]


def step(number: int) -> str:
    """The commands of a step of the page."""
    text = (ROOT / "docs" / "moving-to-a-cluster.md").read_text()
    found = re.findall(r"^(\d)\. .*?```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return {int(place): block for place, block in found}[number]


async def test_a_store_is_moved_to_a_cluster_and_cursors_go_on(tmp_path: Path, bin_folder: Path) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed: apt-get install redis-tools")
    program = programs().get("installed")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    [port] = free_ports(1)
    single = Server(program, tmp_path / "single", port).start()
    env = environment(FROM=single.address, PATH=f"{bin_folder}:{environment()['PATH']}")
    try:
        before, cursor = await some_runs(single.url)
        with clustered(program, tmp_path / "cluster") as cluster:
            env["TO"] = cluster.servers[0].address
            said = []
            for number in (1, 2, 3):
                done = await asyncio.to_thread(shell, step(number), env, tmp_path)
                assert done.returncode == 0, done.stdout + done.stderr
                said.append(done.stdout.strip().splitlines()[-1])
            single.kill()
            after = await look_again(cluster.url, [each.run_id for each in before], cursor)
            checked = run("rebuild", "--check", "--redis-url", cluster.url, folder=tmp_path)
    finally:
        single.kill()

    assert said[0] == said[2]
    assert "0 differences" in said[0]
    assert after[:-1] == before
    assert after[-1].run_number is None
    assert checked.returncode == 0


async def some_runs(url: str) -> tuple[list[Run], str]:
    """Make runs of every kind, large outputs among them, and return them with a cursor behind them all."""
    async with RedisStore.open(url) as store, Projector(store), AsyncPublisher(url) as publisher:
        gateway = Gateway(store, GatewayConfig(port=0, shutdown_s=0.5))
        await gateway.start()
        ids = []
        for size in (10, 100_000, 3_000_000):
            async with publisher.track("p", tags=["x"]) as tracked:
                tracked.outputs["text"] = "x" * size
            ids.append(tracked.run_id)
        token = await a_token(store)
        async with AsyncClient(gateway.url, token=token) as client:
            found = [await client.wait(run_id, timeout_s=30) for run_id in ids]
            cursor = await a_cursor(gateway.url, token, ids[-1])
        await gateway.stop()
    return found, cursor


async def look_again(url: str, run_ids: list[str], cursor: str) -> list[Run]:
    """Look the runs up after a cursor from before the move, and publish one more."""
    config = PublisherConfig()
    async with RedisStore.open(url) as store, Projector(store), AsyncPublisher(url, config=config) as publisher:
        gateway = Gateway(store, GatewayConfig(port=0, shutdown_s=0.5))
        await gateway.start()
        async with AsyncClient(gateway.url, token=await a_token(store)) as client:
            found = [await client.get_run(run_id, after=cursor) for run_id in run_ids]
            async with publisher.track("p") as tracked:
                tracked.outputs["n"] = 1
            found.append(await client.wait(tracked.run_id, timeout_s=30))
        await gateway.stop()
    return found


async def a_token(store: RedisStore) -> str:
    from secrets import randbelow

    from runstore.core.principal import Scope
    from runstore.core.token import COMBINATIONS, hash_token, make_token
    from runstore.ports import TokenRecord

    token = make_token(randbelow(COMBINATIONS))
    kept = TokenRecord(
        name=f"t{randbelow(10**9)}", hash=hash_token(token), scopes=(Scope.ADMIN,), projects=None, created_at_s=0
    )
    await store.tokens.put(kept)
    return token


async def a_cursor(url: str, token: str, run_id: str) -> str:
    import aiohttp

    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{url}/v1/runs/{run_id}") as answer:
        return answer.headers["Runstore-Cursor"]


def shell(commands: str, env: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    # redis-cli shows keys as they are, which are bytes
    return subprocess.run(
        ["bash", "-euc", commands], env=env, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
