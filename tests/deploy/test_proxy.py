"""Proxies before gateways: what is pushed passes at once, and a gateway is replaced behind them, heard by nobody."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from runstore import AsyncPublisher
from tests.cli.processes import PATIENT, Started, environment, run, started
from tests.deploy.fronts import Front, front, program
from tests.deploy.secured import DEPLOY
from tests.topology.servers import free_ports

pytestmark = [PATIENT, pytest.mark.slow]


class Site:
    """Two gateways behind a proxy."""

    def __init__(self, redis_url: str, folder: Path, stack: ExitStack, kind: str) -> None:
        self.redis_url = redis_url
        self.folder = folder
        self._stack = stack
        self.start("projector")
        self.ports = free_ports(2)
        self.gateways = [self.start("gateway", "--port", str(port)) for port in self.ports]
        self.front: Front = stack.enter_context(front(kind, folder / "front", (self.ports[0], self.ports[1])))
        done = run("token", "create", "--name", "t", "--scope", "admin", "--redis-url", redis_url, folder=folder)
        self.token = done.stdout.strip()

    def start(self, *words: str) -> Started:
        folder = self.folder / uuid4().hex
        folder.mkdir()
        return self._stack.enter_context(started(*words, "--redis-url", self.redis_url, folder=folder))

    def replace(self, place: int) -> None:
        """Stop a gateway as a supervisor does, and start another one in its place."""
        assert self.gateways[place].end() == 0
        self.gateways[place] = self.start("gateway", "--port", str(self.ports[place]))

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self.front.trust)
        return aiohttp.ClientSession(
            self.front.url, connector=connector, headers={"Authorization": f"Bearer {self.token}"}
        )

    def command(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command of a user who knows only the proxy."""
        env = environment(
            RUNSTORE_URL=self.front.url, RUNSTORE_TOKEN=self.token, SSL_CERT_FILE=str(self.front.authority)
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "runstore.cli", *words],
            cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._stack.callback(process.kill)
        return process


@pytest.fixture(params=["nginx", "caddy"])
def site(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    if not program(request.param):
        pytest.skip(f"{request.param} is not installed: apt-get install {request.param}")
    with ExitStack() as stack:
        yield Site(redis_url, tmp_path, stack, request.param)


async def begin(publisher: AsyncPublisher) -> str:
    run_id = str(uuid4())
    await publisher.publish(run_id=run_id, status="running", project_name="p")
    return run_id


async def test_a_subscription_a_stream_and_a_long_poll_pass_through(site: Site) -> None:
    async with AsyncPublisher(site.redis_url) as publisher, site.session() as session, asyncio.timeout(60):
        run_id = await begin(publisher)
        socket = await session.ws_connect("/v1/ws", protocols=["runstore.v1"])
        await socket.send_json({"type": "subscribe", "id": "a", "run_ids": [run_id]})
        assert (await socket.receive_json())["type"] == "subscribed"
        stream = await session.get(f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"})
        first = await read_event(stream)
        poll = asyncio.create_task(ask(session, run_id, wait_s=50))
        shown = await ask(session, run_id)

        await publisher.publish(run_id=run_id, status="success")
        pushed, last, polled = await socket.receive_json(), await read_event(stream), await poll

    assert (first["status"], shown["status"]) == ("running", "running")
    assert (pushed["run"]["status"], last["status"], polled["status"]) == ("success",) * 3


async def test_the_numbers_are_not_for_the_world(site: Site) -> None:
    async with site.session() as session:
        answer = await session.get("/metrics")

    assert answer.status == 404


async def test_a_large_event_passes_through(site: Site) -> None:
    run_id = str(uuid4())
    event = {"status": "success", "project_name": "p", "output": {"stdout": "x" * 20_000_000}}
    async with site.session() as session:
        answer = await session.post(f"/v1/runs/{run_id}/transitions", json=event)
        output = await (await session.get(f"/v1/runs/{run_id}/output?after={(await answer.json())['cursor']}")).read()

    assert answer.status == 202
    assert len(json.loads(output)["stdout"]) == 20_000_000


async def test_gateways_are_replaced_heard_by_nobody(site: Site) -> None:
    async with AsyncPublisher(site.redis_url) as publisher, site.session() as session:
        runs = [await begin(publisher) for _ in range(3)]
        watches = [site.command("watch", run_id, "--json") for run_id in runs]
        statuses: list[int] = []
        asking = asyncio.create_task(keep_asking(session, runs[0], statuses))
        for place in range(2):
            await asyncio.to_thread(site.replace, place)
        asking.cancel()
        for run_id in runs:
            await publisher.publish(run_id=run_id, status="success")
        ended = [await asyncio.to_thread(watch.communicate, timeout=60) for watch in watches]

    assert [watch.returncode for watch in watches] == [0, 0, 0], ended
    assert set(statuses) == {200}
    assert len(statuses) > 10


async def keep_asking(session: aiohttp.ClientSession, run_id: str, statuses: list[int]) -> None:
    while True:
        async with session.get(f"/v1/runs/{run_id}") as answer:
            statuses.append(answer.status)


async def ask(session: aiohttp.ClientSession, run_id: str, *, wait_s: int = 0) -> Any:
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    async with session.get(f"/v1/runs/{run_id}", headers=headers) as answer:
        assert answer.status == 200
        return await answer.json()


async def read_event(stream: aiohttp.ClientResponse) -> Any:
    async for line in stream.content:
        if line.startswith(b"data:"):
            return json.loads(line.removeprefix(b"data:"))
    raise AssertionError("the stream ended")


@pytest.mark.skipif(not program("caddy"), reason="caddy is not installed: apt-get install caddy")
def test_caddy_finds_nothing_wrong_with_its_file() -> None:
    done = subprocess.run(
        [program("caddy"), "validate", "--adapter", "caddyfile", "--config", DEPLOY / "proxy" / "Caddyfile"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr
