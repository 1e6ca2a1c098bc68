"""Runs flow while slots move, a primary is killed, and one is demoted and left alive."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runstore import AsyncPublisher
from runstore.adapters.cluster import slot_of_key
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.status import Status
from runstore.feed import FeedTail, SafeRuns, TailConfig
from runstore.lookup import Lookup
from runstore.projector import Projector
from runstore.publish import PublisherConfig
from tests.feed.test_tail import Ear
from tests.projector.builders import run_id_of
from tests.topology.deployments import Clustered, Guarded, guarded
from tests.topology.servers import programs
from tests.waiting import happens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SOON_S = 90


class Traffic:
    """Runs that are published one after the other, and what is heard of them."""

    def __init__(self, store: RedisStore, publisher: AsyncPublisher, tail: FeedTail) -> None:
        self.store = store
        self.tail = tail
        self.runs: list[RunId] = []
        self.ear = Ears()
        runs = SafeRuns(store.runs, tail)
        self.lookup = Lookup(runs, store.outputs, cache_bytes=10**6, tail=tail)
        tail.on_rollback(lambda _: self.lookup.forget_all())
        self._publisher = publisher
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        tail.hub.join(self.ear, project_name="forecasts")

    def begin(self) -> None:
        self._task = asyncio.create_task(self._publish_forever())

    async def flows(self, more: int = 30) -> None:
        """Return when so many more runs were heard to end."""
        heard = len(self.ear.ended)
        await happens(lambda: len(self.ear.ended) >= heard + more, SOON_S)

    async def end(self) -> None:
        """Publish no more, and return when everything that was published has come through."""
        self._stopping = True
        assert self._task is not None
        await self._task
        await self._publisher.flush()
        await happens(lambda: self.ear.ended.keys() >= set(self.runs) or bool(self.ear.rollbacks), SOON_S)
        await happens(self._all_ended, SOON_S)

    async def _all_ended(self) -> bool:
        try:
            records = [await self.lookup.fresh(run_id) for run_id in self.runs]
        except Exception:
            return False
        return all(record is not None and record.run.status is Status.SUCCESS for record in records)

    async def _publish_forever(self) -> None:
        while not self._stopping:
            run_id = run_id_of(len(self.runs) + 1)
            self.runs.append(run_id)
            await self._publisher.publish(run_id=run_id, status="running", project_name="forecasts")
            await self._publisher.publish(run_id=run_id, status="success", project_name="forecasts")
            await asyncio.sleep(0.002)


class Ears(Ear):
    """A listener that knows which runs it heard to end, and as what."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[RunId, set[Status]] = {}

    def hear(self, pushes: Any) -> None:
        super().hear(pushes)
        for push in pushes:
            if push.run.is_terminal:
                self.ended.setdefault(push.run.run_id, set()).add(push.run.status)


@asynccontextmanager
async def traffic(url: str, durability: str) -> AsyncIterator[Traffic]:
    config = PublisherConfig(durability=durability, timeout_s=30)
    async with (
        RedisStore.open(url, durability=durability, timeout_s=2.0) as store,
        RedisStore.open(url, durability=durability, timeout_s=2.0) as theirs,
        Projector(store),
        AsyncPublisher(url, config=config) as publisher,
    ):
        tail = FeedTail(theirs.feed, theirs.outputs.view, TailConfig(backoff_max_s=0.5))
        await tail.start()
        made = Traffic(theirs, publisher, tail)
        made.begin()
        try:
            yield made
        finally:
            made._stopping = True
            await tail.stop()


async def within(work: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(work, *args)


@pytest.mark.parametrize("durability", ["acknowledged", "replicated"])
@pytest.mark.parametrize("at_once", [False, True], ids=["by-key", "at-once"])
async def test_runs_flow_while_their_slots_move(
    cluster: Clustered, program: Path, durability: str, at_once: bool
) -> None:
    if at_once and program != programs().get("wheel"):
        pytest.skip("Redis 7 moves slots key by key only")
    async with traffic(cluster.url, durability) as flowing:
        await flowing.flows()
        for partition in range(4):
            slot = slot_of_key(f"runstore:{{{partition}}}:")
            source = await within(cluster.holder, slot)
            target = next(server for server in await within(cluster.primaries) if server is not source)
            await within(cluster.move_at_once if at_once else cluster.move, slot, target)
            await flowing.flows(10)
        await flowing.end()

        assert flowing.ear.rollbacks == [], "nothing was lost, so nothing is told to be"
        assert all(statuses == {Status.SUCCESS} for statuses in flowing.ear.ended.values())


async def test_a_primary_is_killed_and_what_was_acknowledged_by_a_replica_comes_through(
    deployment: Guarded | Clustered,
) -> None:
    async with traffic(deployment.url, "replicated") as flowing:
        await flowing.flows()
        primary = deployment.primary if isinstance(deployment, Guarded) else deployment.servers[0]
        await within(primary.kill)
        if isinstance(deployment, Clustered):
            # its replica takes over and has none of its own, until the one that was killed is back
            await happens(lambda: within(_is_served, deployment), SOON_S)
            await within(primary.start)
        await flowing.flows()
        await flowing.end()

        assert flowing.ear.rollbacks == []
        assert all(statuses == {Status.SUCCESS} for statuses in flowing.ear.ended.values())


async def test_a_primary_that_is_demoted_and_lives_on_is_left_by_everybody(deployment: Guarded | Clustered) -> None:
    async with traffic(deployment.url, "acknowledged") as flowing:
        await flowing.flows()
        if isinstance(deployment, Guarded):
            await within(deployment.fail_over)
        else:
            replica = await within(deployment.replica_of, deployment.servers[0])
            await within(replica.ask, "CLUSTER", "FAILOVER")
            await happens(lambda: within(lambda: replica in deployment.primaries()), SOON_S)
        await flowing.flows()
        await flowing.end()

        assert all(statuses == {Status.SUCCESS} for statuses in flowing.ear.ended.values())


async def test_a_primary_that_wakes_after_another_took_its_place_is_not_believed(program: Path, tmp_path: Path) -> None:
    with guarded(program, tmp_path) as deployment:
        async with traffic(deployment.url, "replicated") as flowing:
            await flowing.flows()
            before = await within(lambda: deployment.primary)
            before.freeze()
            await happens(lambda: within(lambda: deployment.primary is not before), SOON_S)
            before.thaw()
            await flowing.flows()
            await flowing.end()

            assert flowing.ear.rollbacks == []
            assert all(statuses == {Status.SUCCESS} for statuses in flowing.ear.ended.values())


def _is_served(deployment: Clustered) -> bool:
    return deployment.is_whole() and deployment.servers[0] not in deployment.primaries()
