"""Two gateways on one port are restarted one after the other, under load, and no client of the SDK hears of it."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from runstore import AsyncClient, AsyncPublisher
from tests.cli.processes import PATIENT, Started
from tests.faults.lives import TOKEN
from tests.faults.site import Site, site

pytestmark = [pytest.mark.slow, PATIENT]
CLIENTS, ROUNDS, A_TURN = 8, 2, 25


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as made:
        made.start("projector")
        yield made


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Users:
    """Clients that wait for runs, watch the project and look runs up for as long as it goes on."""

    def __init__(self, clients: list[AsyncClient], publisher: AsyncPublisher) -> None:
        self._clients, self._publisher = clients, publisher
        self.goes_on = True
        self.listening = asyncio.Semaphore(0)
        self.told: list[str] = []
        self.waited: list[str] = []
        self.watched: Counter[int] = Counter()
        self.looked_up = 0

    async def wait_for_runs(self, client: AsyncClient) -> None:
        while self.goes_on:
            runs = [str(uuid4()) for _ in range(A_TURN)]
            waits = [asyncio.create_task(client.wait(run_id, timeout_s=100)) for run_id in runs]
            for run_id in runs:
                await self._publisher.publish(run_id, "running")
                await self._publisher.publish(run_id, "success")
            self.told += runs
            self.waited += [run.run_id for run in await asyncio.gather(*waits)]

    async def watch(self, number: int) -> None:
        async with self._clients[number].watch(project_name="mine") as watched:
            self.listening.release()
            async for run in watched:
                self.watched[number] += run.is_terminal

    async def look_up(self, client: AsyncClient) -> None:
        while self.goes_on:
            if self.waited:
                assert (await client.get_run(self.waited[-1])).status == "success"
                self.looked_up += 1
            await asyncio.sleep(0.01)


async def test_a_rolling_restart_under_load_is_heard_by_nobody(running: Site) -> None:
    port = free_port()

    def begin() -> Started:
        return running.start_gateway(port, RUNSTORE_GATEWAY_REUSE_PORT="true")

    gateways = [await asyncio.to_thread(begin) for _ in range(2)]
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(AsyncPublisher(running.lives.url, "mine"))
        url = gateways[0].url
        clients = [await stack.enter_async_context(AsyncClient(url, token=TOKEN)) for _ in range(CLIENTS)]
        users = Users(clients, publisher)
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(users.watch(number)) for number in range(CLIENTS)]
            for _ in watches:
                await users.listening.acquire()
            busy = [
                group.create_task(act(client)) for client in clients for act in (users.wait_for_runs, users.look_up)
            ]
            for _ in range(ROUNDS):
                for number, gateway in enumerate(gateways):
                    before = len(users.waited)
                    assert await asyncio.to_thread(gateway.end) == 0
                    gateways[number] = await asyncio.to_thread(begin)
                    async with asyncio.timeout(60):
                        while len(users.waited) < before + 2 * CLIENTS * A_TURN:  # noqa: ASYNC110 - nothing tells
                            await asyncio.sleep(0.02)
            users.goes_on = False
            await asyncio.wait(busy)
            async with asyncio.timeout(60):
                while any(users.watched[number] < len(users.told) for number in range(CLIENTS)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            for watch in watches:
                watch.cancel()

    assert sorted(users.waited) == sorted(users.told)
    assert all(heard == len(users.told) for heard in users.watched.values())
    assert users.looked_up > 0
