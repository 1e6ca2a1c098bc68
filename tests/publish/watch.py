"""A store with its projector and reaper at work, and what becomes of runs there."""

import asyncio

from runstore.adapters.reaping import RedisReaping
from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.projector import Projector
from runstore.reaper import Reaper, ReaperConfig
from tests.waiting import happens

LEASE_MS = 600


class Watch:
    """A store with its projector and reaper at work."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.projector = Projector(store)
        self.reaper = Reaper(store, ReaperConfig(every_ms=50, lease_ms=LEASE_MS))

    async def until(self, run_id: str, *statuses: Status) -> Run:
        places = {place.partition: place.n for place, _ in await self.store.feed.tail()}
        async with asyncio.timeout(20):
            while True:
                (record,) = await self.store.runs.get_many([RunId(run_id)])
                if record is not None and record.run.status in statuses:
                    return record.run
                for partition, entry in await self.store.feed.wait(places, 1000):
                    places[partition] = entry.n

    async def leases(self) -> int:
        return sum([await self.store.client.zcard(keys.leases) for keys in self.store.meta.keys])

    async def is_held(self) -> bool:
        return await self.leases() > 0


async def past_its_lease(watch: Watch) -> None:
    """Wait until a lease that was not renewed from now on would have been reaped, by the store's own clock."""
    reaping = RedisReaping(watch.store)
    until = await reaping.now_ms() + 3 * LEASE_MS

    async def is_past() -> bool:
        return await reaping.now_ms() > until

    await happens(is_past)
