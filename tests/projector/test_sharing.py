"""Projectors share partitions by leases that the store's clock, set back, does not stretch."""

from runstore.adapters.sharing import Sharing
from runstore.adapters.store import RedisStore
from runstore.wire.keys import PROJECTORS
from tests.waiting import happens

LEASE_MS = 200
HOUR_MS = 3_600_000


def sharing(store: RedisStore, name: str) -> Sharing:
    return Sharing(store.client, store.meta, name, lease_ms=LEASE_MS)


async def test_who_said_to_be_there_before_the_clock_was_set_back_is_counted_for_a_lease_only(
    real_store: RedisStore,
) -> None:
    seconds, _ = await real_store.client.time()
    await real_store.client.zadd(PROJECTORS, {"dead": int(seconds) * 1000 + HOUR_MS})
    ours = sharing(real_store, "ours")
    assert await ours.arrive() == 2

    async def is_alone() -> bool:
        return await ours.arrive() == 1

    await happens(is_alone)


async def test_a_partition_held_since_before_the_clock_was_set_back_is_free_after_a_lease(
    real_store: RedisStore,
) -> None:
    await real_store.client.set(real_store.meta.keys[0].owner, "dead", px=HOUR_MS)
    ours = sharing(real_store, "ours")
    assert not await ours.hold(0)

    async def is_ours() -> bool:
        return await ours.hold(0)

    await happens(is_ours)


async def test_a_partition_is_kept_by_whoever_renews_it(real_store: RedisStore) -> None:
    held, other = Sharing(real_store.client, real_store.meta, "held", lease_ms=HOUR_MS), sharing(real_store, "other")
    assert await held.hold(0)
    assert not await other.hold(0)

    assert await held.hold(0)
    assert await real_store.client.pttl(real_store.meta.keys[0].owner) > LEASE_MS
