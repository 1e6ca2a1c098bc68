"""`runstore rebuild` says what differs by its exit code, and puts it right when it is told to."""

import asyncio

import msgspec

from runstore.adapters.store import RedisStore
from runstore.core.ids import to_bytes
from runstore.projector import Projector
from tests.cli.command import Command
from tests.projector.builders import run_id_of, tell

RUN = run_id_of(1)


async def fold_one(url: str) -> None:
    async with RedisStore.open(url) as store:
        await tell(store, RUN, "success")
        await Projector(store).drain()


async def damage(url: str) -> None:
    async with RedisStore.open(url) as store:
        await store.client.hset(store.meta.keys_of(RUN).run(to_bytes(RUN)), "s", "1")


def test_a_store_is_compared_and_put_right_on_demand(redis_url: str, command: Command) -> None:
    asyncio.run(fold_one(redis_url))
    well = command("rebuild", "--check", "--redis-url", redis_url)
    asyncio.run(damage(redis_url))

    said = [command("rebuild", *flags, "--redis-url", redis_url) for flags in ([], ["--swap", "--json"], ["--check"])]

    assert (well.code, well.out) == (0, "1 events folded, 1 runs compared, 0 differences\n")
    assert [each.code for each in said] == [1, 0, 0]
    assert f"{RUN}  partition" in said[0].out
    assert "fields differ (status)" in said[0].out
    assert msgspec.json.decode(said[1].out)["swapped"] == 1


def test_check_and_swap_exclude_each_other(redis_url: str, command: Command) -> None:
    said = command("rebuild", "--check", "--swap", "--redis-url", redis_url)

    assert (said.code, "not both" in said.err) == (2, True)
