"""Redis is away for a minute while runs are in flight, and its clock is an hour ahead when it is back."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest

from runstore import AsyncClient, AsyncPublisher, PublisherConfig
from tests.chaos.power import Power, build_shim
from tests.chaos.server import Server
from tests.faults.lives import TOKEN
from tests.faults.site import site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock is set by a preloaded shim"),
]
AWAY_S, HOUR_S = 60.0, 3_600.0
TERMS_S = 35.0
"""Two leases and more: whoever is not healthy has ended by then."""

PUBLISHERS, EACH, WORKED = 4, 24, 4


class Machine:
    """A Redis that can be away, and the clock that it goes by."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self.power = Power(shim, folder / "power", folder / "data")
        self.server = Server(folder / "data", self.power, fsync="everysec")
        self.begin()

    def begin(self) -> None:
        self.server.start()
        self.server.ready()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    shim = build_shim(tmp_path)
    if shim is None:
        pytest.skip("there is no C compiler to build the shim with: install gcc")
    made = Machine(shim, tmp_path / "machine")
    yield made
    made.server.kill()


class Work:
    """Runs in flight: some end while Redis is away, the others long after."""

    def __init__(self, publishers: list[AsyncPublisher]) -> None:
        self._publishers = publishers
        self.in_flight = asyncio.Semaphore(0)
        self.may_end = {True: asyncio.Event(), False: asyncio.Event()}
        self.told = {str(uuid4()): number for number in range(PUBLISHERS * EACH)}

    async def do(self, run_id: str, number: int) -> None:
        async with self._publishers[number % PUBLISHERS].track(run_id=run_id) as run:
            self.in_flight.release()
            await self.may_end[number % 2 == 0].wait()
            run.outputs["number"] = number


async def test_a_hundred_runs_survive_a_minute_without_redis_and_its_clock_an_hour_ahead(
    machine: Machine, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(site(tmp_path, machine.server.url))
        running.start("projector")
        running.start_gateway()
        running.start("worker", "--concurrency", str(WORKED))
        config = PublisherConfig(spool_dir=str(tmp_path / "spool"))
        publishers = [
            await stack.enter_async_context(AsyncPublisher(machine.server.url, "mine", config=config))
            for _ in range(PUBLISHERS)
        ]
        client = await stack.enter_async_context(AsyncClient(running.gateway.url, token=TOKEN))
        work = Work(publishers)
        tasks = [asyncio.create_task(work.do(run_id, number)) for run_id, number in work.told.items()]
        for _ in tasks:
            await work.in_flight.acquire()
        worked = [(await client.run("mine")).run_id for _ in range(WORKED)]
        for run_id in worked:
            async for run in client.watch(run_id, events="all"):
                if run.status == "running":
                    break
        waits = [asyncio.create_task(client.wait(run_id, timeout_s=300)) for run_id in (*work.told, *worked)]

        machine.server.kill()
        machine.power.step(HOUR_S)
        back_at = monotonic() + AWAY_S
        work.may_end[True].set()
        while monotonic() < back_at:
            status, problem, headers = await running.ask(f"/v1/runs/{worked[0]}")
            assert (status, problem["code"]) == (503, "store_unavailable")
            assert int(headers["Retry-After"]) >= 1
            await asyncio.sleep(1)
        await asyncio.to_thread(machine.begin)
        early = [wait for wait, number in zip(waits, work.told.values(), strict=False) if number % 2 == 0]
        _, late = await asyncio.wait(early, timeout=60)
        assert not late, f"{len(late)} ends that were spooled had not come a minute after Redis was back"

        await asyncio.sleep(TERMS_S)  # in which nothing is to happen
        work.may_end[False].set()
        running.let_runs_end()
        async with asyncio.timeout(120):
            runs = await asyncio.gather(*waits)
            await asyncio.gather(*tasks)

        assert {run.status for run in runs} == {"success"}, [run.error_message for run in runs]
        assert {run.run_id: run.output.outputs["number"] for run in runs[: len(work.told)]} == work.told  # type: ignore[union-attr,index]
        for run_id in worked:
            _, told, _ = await running.ask(f"/v1/runs/{run_id}/events")
            assert {event.get("attempt") or 1 for event in told["events"]} == {1}
        assert running.all_live
