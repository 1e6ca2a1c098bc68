"""Power cuts of Redis and of publishers: what was acknowledged is kept as the durability and the AOF policy promise.

A cut kills a machine's processes and takes from its files what was not fsynced. The publishers are cut together with
Redis, so that nobody is left to send again what was lost.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from runstore import AsyncClient
from runstore.adapters.store import RedisStore
from runstore.wire.event import decode_event
from tests.chaos.power import Power, build_shim
from tests.chaos.server import Server
from tests.cli.processes import PATIENT, environment
from tests.faults.lives import TOKEN
from tests.faults.site import Site, site
from tests.waiting import happens

pytestmark = [
    pytest.mark.slow,
    PATIENT,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="disks are cut by a preloaded shim"),
]
CUTS = 6
PUBLISHER = """
import asyncio, sys
from uuid import uuid4
from runstore import AsyncPublisher, PublisherConfig
async def tell(publisher):
    while True:
        run_id = str(uuid4())
        told = await publisher.publish(run_id, "success")
        print(run_id, "spool" if told.cursor is None else "store", flush=True)
async def main():
    url, folder, durability, tells = sys.argv[1:]
    config = PublisherConfig(spool_dir=folder, durability=durability, patience_s=0.5)
    async with AsyncPublisher(url, "mine", config=config) as publisher:
        if tells == "yes":
            await asyncio.gather(*(tell(publisher) for _ in range(8)))
        while not await publisher.deliver_abandoned():
            await asyncio.sleep(0.1)
asyncio.run(main())
"""


class Machine:
    """Processes that lose their power together with their disk."""

    def __init__(self, shim: Path, folder: Path) -> None:
        self.disk = folder / "data"
        self.disk.mkdir(parents=True)
        self.power = Power(shim, folder / "power", self.disk)


class RedisMachine(Machine):
    """Redis's own."""

    def __init__(self, shim: Path, folder: Path, fsync: str) -> None:
        super().__init__(shim, folder)
        self.server = Server(self.disk, self.power, fsync=fsync)
        self.begin()

    def begin(self) -> None:
        self.server.start()
        self.server.ready()

    def cut(self) -> None:
        self.server.kill()
        self.power.cut()


class PublisherMachine(Machine):
    """A publisher's own, with its spool."""

    def __init__(self, shim: Path, folder: Path, url: str, durability: str) -> None:
        super().__init__(shim, folder)
        self.acknowledged: dict[str, str] = {}
        self._words = sys.executable, "-c", PUBLISHER, url, str(self.disk), durability
        self._env = environment() | self.power.env
        self._process: asyncio.subprocess.Process
        self._listening: asyncio.Task[None]

    async def begin(self, *, tells: bool = True) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._words, "yes" if tells else "no", env=self._env, stdout=asyncio.subprocess.PIPE
        )
        self._listening = asyncio.create_task(self._listen())

    async def cut(self) -> None:
        self._process.kill()
        await self._listening
        await self._process.wait()
        self.power.cut()

    async def delivers_all(self) -> None:
        """Hand over what earlier lives left behind."""
        await self.begin(tells=False)
        assert await asyncio.wait_for(self._process.wait(), 60) == 0

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            run_id, _, where = line.decode().strip().partition(" ")
            if where in {"spool", "store"}:
                self.acknowledged[run_id] = where

    def count(self, where: str) -> int:
        return sum(each == where for each in self.acknowledged.values())


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_shim(tmp_path_factory.mktemp("shim"))
    if built is None:
        pytest.skip("there is no C compiler to build the shim with: install gcc")
    return built


@pytest.fixture
def redis_on(shim: Path, tmp_path: Path) -> Iterator[Callable[[str], RedisMachine]]:
    made: list[RedisMachine] = []

    def make(fsync: str) -> RedisMachine:
        made.append(RedisMachine(shim, tmp_path / "redis", fsync))
        return made[-1]

    yield make
    for machine in made:
        machine.server.kill()


async def heard_by(client: AsyncClient, told: set[str], listening: asyncio.Event) -> None:
    async with client.watch(project_name="mine") as watched:
        listening.set()
        async for run in watched:
            told.add(run.run_id)


async def stored(url: str) -> Callable[[str], bool]:
    """Return what says whether a run is kept as it ended; all that is logged was folded."""
    async with RedisStore.open(url) as store:
        ends = [await store.client.xrevrange(keys.events, count=1) for keys in store.meta.keys]

        async def folded() -> bool:
            entries = [await store.client.hget(keys.cursor, "entry") for keys in store.meta.keys]
            return all(not end or end[0][0] == entry for end, entry in zip(ends, entries, strict=True))

        await happens(folded, 60)
        logged = [row for keys in store.meta.keys for row in await store.client.xrange(keys.events)]
        known = {decode_event(fields[b"event"])[0].run_id for _, fields in logged}
        records = await store.runs.get_many(list(known))
        kept = {record.run.run_id for record in records if record is not None and record.run.is_terminal}
    return kept.__contains__


@pytest.mark.parametrize("durability", ["fsynced", "acknowledged"])
async def test_nothing_acknowledged_or_told_is_lost_by_power_cuts_under_aof_always(
    shim: Path, redis_on: Callable[[str], RedisMachine], tmp_path: Path, durability: str
) -> None:
    dice = random.Random(4)
    machine = redis_on("always")
    url = machine.server.url
    publisher = PublisherMachine(shim, tmp_path / "publisher", url, durability)
    told: set[str] = set()
    async with AsyncExitStack() as stack:
        running: Site = await stack.enter_async_context(site(tmp_path, url))
        running.start("projector", RUNSTORE_DURABILITY=durability)
        running.start_gateway(RUNSTORE_DURABILITY=durability)
        client = await stack.enter_async_context(AsyncClient(running.gateway.url, token=TOKEN))
        listening = asyncio.Event()
        hearing = asyncio.create_task(heard_by(client, told, listening))
        await listening.wait()
        for cut in range(CUTS):
            await publisher.begin()
            at_store, at_spool, before = publisher.count("store"), publisher.count("spool"), len(told)
            await happens(lambda: publisher.count("store") > at_store + 50 and len(told) > before, 60)  # noqa: B023
            await asyncio.sleep(dice.uniform(0, 0.3))
            machine.cut()
            if cut % 2:
                await happens(lambda: publisher.count("spool") > at_spool + 20, 60)  # noqa: B023
            await publisher.cut()
            machine.begin()
        await publisher.delivers_all()
        is_kept = await stored(url)
        await happens(lambda: publisher.acknowledged.keys() <= told, 60)
        hearing.cancel()
        assert running.all_live

    lost = {run_id: where for run_id, where in publisher.acknowledged.items() if not is_kept(run_id)}
    assert lost == {}
    assert [run_id for run_id in told if not is_kept(run_id)] == []
    assert publisher.count("store") > 50 * CUTS
    assert publisher.count("spool") > 20


async def test_a_power_cut_under_everysec_takes_the_newest_events_only_and_is_told(
    redis_on: Callable[[str], RedisMachine], tmp_path: Path
) -> None:
    machine = redis_on("everysec")
    url = machine.server.url
    early: list[str] = []
    spool = str(tmp_path / "spool")
    async with site(tmp_path, url) as running:
        running.start("projector")
        running.start_gateway()
        for _ in range(10):
            ids = [str(uuid4()) for _ in range(20)]
            async with running.socket() as socket:
                await socket.subscribe("p", project_name="mine")
                await publish_and_die(url, ids[:10], spool)
                for _ in range(10):
                    await socket.hear("run")
                await happens(lambda: machine.power.at_risk() == 0)
                early += ids[:10]
                await publish_and_die(url, ids[10:], spool)
                heard = {(await socket.hear("run"))["run"]["run_id"] for _ in range(10)}

                machine.cut()
                machine.begin()

                is_kept = await stored(url)
                assert [run_id for run_id in early if not is_kept(run_id)] == []
                if not all(map(is_kept, heard)):
                    assert (await socket.hear("reset"))["id"] == "p"
                    return  # seldom does the disk get all of it in this moment, and not ten times in a row
        pytest.fail("nothing was ever lost under everysec")


async def publish_and_die(url: str, run_ids: list[str], spool: str) -> None:
    """Publish from a process that is gone before anything could be sent again."""
    code = (
        "import os, sys\nfrom runstore import Publisher, PublisherConfig\n"
        "publisher = Publisher(sys.argv[1], 'mine', config=PublisherConfig(spool_dir=sys.argv[2]))\n"
        "for run_id in sys.argv[3:]: assert publisher.publish(run_id, 'success').cursor\nos._exit(0)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, url, spool, *run_ids), env=environment()
    )
    assert await process.wait() == 0
