"""The safe mark: what a failover could take back is told to nobody; what nobody marked in time is marked later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from runstore import AsyncPublisher
from runstore.adapters.mark import get_marks
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.status import Status
from runstore.feed import FeedTail, SafeRuns, TailConfig
from runstore.lookup import Lookup
from runstore.ports import ListQuery
from runstore.projector import Projector
from runstore.wire.feed import Mark
from tests.feed.test_tail import Ear
from tests.projector.builders import event_of, run_id_of
from tests.topology.servers import Pair
from tests.topology.switch import Switch
from tests.waiting import happens

RUN: RunId = run_id_of(1)
OTHER: RunId = run_id_of(2, partition=0)
TIMEOUT_S = 1.5


class Site:
    """A store with a durability, its projector, and what a gateway looks with."""

    def __init__(self, store: RedisStore, away_s: float) -> None:
        self.store = store
        self.projector = Projector(store)
        self.tail = FeedTail(store.feed, store.outputs.view, TailConfig(after_timeout_s=away_s, backoff_max_s=0.2))
        self.runs = SafeRuns(store.runs, self.tail)
        self.lookup = Lookup(self.runs, store.outputs, cache_bytes=10**6, tail=self.tail)
        self.tail.on_rollback(lambda _: self.lookup.forget_all())
        self.ear = Ear()
        self.tail.hub.join(self.ear, run_ids=(RUN,))

    async def tell(self, run_id: RunId, status: str) -> None:
        """Publish as somebody who waits for nothing, and fold."""
        event = event_of(run_id, status)
        await self.store.client.execute_command("XADD", self.store.meta.keys_of(run_id).events, "*", "event", event)
        await self.projector.turn(0)

    async def status(self, run_id: RunId) -> Status | None:
        record = await self.lookup.record(run_id)
        return record.run.status if record is not None else None

    async def is_now(self, run_id: RunId, status: Status) -> bool:
        """Whether a run is so, where the store answers."""
        try:
            return await self.status(run_id) is status
        except StoreUnavailable:
            return False

    async def mark(self, run_id: RunId) -> Mark | None:
        return (await get_marks(self.store.client, [self.store.meta.keys_of(run_id)]))[0]

    async def fold(self) -> bool:
        """Fold what there is; false where the store is not back yet."""
        try:
            await self.projector.turn(0)
            await self.projector.mark()
        except StoreUnavailable:
            return False
        return True

    async def hears(self, count: int) -> bool:
        """Fold, and say whether so much was heard."""
        return await self.fold() and len(self.ear.statuses) >= count


@asynccontextmanager
async def site_at(url: str, durability: str, away_s: float = 20.0) -> AsyncIterator[Site]:
    async with RedisStore.open(url, durability=durability, timeout_s=TIMEOUT_S) as store:
        site = Site(store, away_s)
        await site.tail.start()
        try:
            yield site
        finally:
            await site.tail.stop()


@pytest.mark.parametrize("durability", ["fsynced", "acknowledged"])
async def test_what_is_safe_is_told_at_once(redis_url: str, durability: str) -> None:
    async with site_at(redis_url, durability) as site:
        for status in ("running", "success"):
            await site.tell(RUN, status)
        await happens(lambda: site.ear.statuses == [Status.RUNNING, Status.SUCCESS])

        assert await site.status(RUN) is Status.SUCCESS
        assert len((await site.runs.list_runs(ListQuery(), None, 5)).runs) == 1
        assert len(await site.runs.history(RUN)) == 2
        marked = Mark(2, site.tail.place(site.tail.partition_of(RUN)).nonce)
        assert await site.mark(RUN) == (marked if durability == "fsynced" else None)


async def test_what_no_replica_has_is_neither_pushed_nor_answered_until_one_has(servers: Pair) -> None:
    async with site_at(servers.primary.url, "replicated", away_s=0.3) as site:
        await site.tell(RUN, "running")
        await site.tell(OTHER, "running")
        await happens(lambda: site.ear.statuses == [Status.RUNNING])
        servers.replica.freeze()
        await site.tell(RUN, "success")

        for question in (site.status(RUN), site.runs.history(RUN), site.runs.list_runs(ListQuery(), None, 5)):
            with pytest.raises(StoreUnavailable):
                await question
        assert await site.status(OTHER) is Status.RUNNING, "what is safe is answered all the while"
        assert site.ear.statuses == [Status.RUNNING]
        async with site_at(servers.primary.url, "replicated", away_s=0.3) as another:
            assert another.tail.place(another.tail.partition_of(RUN)).n == 1, "a gateway begins at what is safe"
            servers.replica.thaw()
            await happens(site.fold)
            await happens(lambda: another.tail.place(another.tail.partition_of(RUN)).n == 2)
        await happens(lambda: site.ear.statuses == [Status.RUNNING, Status.SUCCESS])
        assert await site.status(RUN) is Status.SUCCESS


async def test_a_replica_that_never_got_the_newest_writes_takes_back_nothing_that_was_told(servers: Pair) -> None:
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(Switch(servers.primary.port))
        site = await stack.enter_async_context(site_at(switch.url, "replicated", away_s=0.3))
        await site.tell(RUN, "running")
        await happens(lambda: site.ear.statuses == [Status.RUNNING])
        servers.part()
        await site.tell(RUN, "success")
        with pytest.raises(StoreUnavailable):
            await site.status(RUN)
        servers.promote()
        switch.turn_to(servers.replica.port)
        await asyncio.to_thread(servers.replace)
        await happens(site.fold)

        assert await site.status(RUN) is Status.RUNNING
        await site.tell(RUN, "failed")
        await happens(lambda: site.hears(2))
        assert site.ear.statuses == [Status.RUNNING, Status.FAILED]
        assert await site.status(RUN) is Status.FAILED
        assert site.ear.rollbacks == [], "nothing that was told is in doubt"


async def test_the_same_loss_is_told_where_an_acknowledgement_is_enough(servers: Pair) -> None:
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(Switch(servers.primary.port))
        site = await stack.enter_async_context(site_at(switch.url, "acknowledged"))
        await site.tell(RUN, "running")
        await happens(lambda: site.ear.statuses == [Status.RUNNING])
        await asyncio.to_thread(servers.catch_up)
        servers.part()
        await site.tell(RUN, "success")
        await happens(lambda: site.ear.statuses[-1] is Status.SUCCESS)
        assert await site.status(RUN) is Status.SUCCESS
        servers.promote()
        switch.turn_to(servers.replica.port)

        await happens(lambda: len(site.ear.rollbacks) == 1)
        assert await site.status(RUN) is Status.RUNNING, "what was kept of it is forgotten"


@pytest.mark.parametrize("ends", [("success",), ("running", "success")])
async def test_what_was_acknowledged_and_lost_is_sent_again_by_its_publisher(
    servers: Pair, ends: tuple[str, ...]
) -> None:
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(Switch(servers.primary.port))
        site = await stack.enter_async_context(site_at(switch.url, "acknowledged"))
        await stack.enter_async_context(Projector(site.store))
        publisher = await stack.enter_async_context(AsyncPublisher(switch.url))
        await asyncio.to_thread(servers.catch_up)
        servers.part()
        for status in ends:
            await publisher.publish(run_id=RUN, status=status, project_name="forecasts")
        await happens(lambda: site.ear.statuses == [Status(status) for status in ends])
        servers.promote()
        switch.turn_to(servers.replica.port)

        await happens(lambda: len(site.ear.rollbacks) == 1)
        await happens(lambda: site.is_now(RUN, Status.SUCCESS))


async def test_a_mark_that_was_lost_is_made_again(redis_url: str) -> None:
    async with site_at(redis_url, "fsynced") as site:
        await site.tell(RUN, "running")
        before = await site.mark(RUN)
        assert before is not None
        for leaves in (("DEL",), ("SET", "no mark")):
            command, *rest = leaves
            await site.store.client.execute_command("DEL", site.store.meta.keys_of(RUN).mark)
            await site.store.client.execute_command(command, site.store.meta.keys_of(RUN).mark, *rest)
            await site.projector.mark()

            assert await site.mark(RUN) == before


async def test_what_a_projector_left_unmarked_is_marked_by_the_next_one(redis_url: str) -> None:
    async with site_at(redis_url, "fsynced", away_s=0.3) as site:
        await site.tell(RUN, "running")
        await site.store.client.execute_command("DEL", site.store.meta.keys_of(RUN).mark)
        async with site_at(redis_url, "fsynced") as another:
            assert another.tail.place(another.tail.partition_of(RUN)).n == 0
            async with Projector(another.store):
                await happens(lambda: another.ear.statuses == [Status.RUNNING])


async def test_a_mark_of_another_life_with_a_greater_number_gives_way(redis_url: str) -> None:
    async with site_at(redis_url, "fsynced") as site:
        await site.store.client.execute_command("XADD", site.store.meta.keys_of(RUN).mark, "900-0", "c", b"another")
        await site.tell(RUN, "running")

        assert (await site.mark(RUN) or Mark(0, b"")).n == 1


async def test_a_lower_setting_lets_go_of_what_was_kept_back(redis_url: str) -> None:
    async with site_at(redis_url, "fsynced") as site:
        await site.tell(RUN, "running")
        await site.store.client.execute_command("DEL", site.store.meta.keys_of(RUN).mark)
        async with site_at(redis_url, "acknowledged") as another:
            assert another.tail.place(another.tail.partition_of(RUN)).n == 0, "it was told to nobody"
            await another.projector.turn(0)
            await happens(lambda: another.ear.statuses == [Status.RUNNING])
            await another.tell(RUN, "success")
            await happens(lambda: another.ear.statuses == [Status.RUNNING, Status.SUCCESS])


async def test_nothing_is_asked_of_the_store_for_a_mark_where_an_acknowledgement_is_enough(redis_url: str) -> None:
    async with site_at(redis_url, "acknowledged") as site:
        await site.store.client.execute_command("CONFIG", "RESETSTAT")
        await site.tell(RUN, "running")
        await happens(lambda: site.ear.statuses == [Status.RUNNING])
        await site.status(RUN)
        await site.runs.list_runs(ListQuery(), None, 5)

        stats = await site.store.client.execute_command("INFO", "commandstats")
        assert not {"cmdstat_wait", "cmdstat_waitaof"} & stats.keys()
        assert not await site.store.client.execute_command("EXISTS", *(keys.mark for keys in site.store.meta.keys))
