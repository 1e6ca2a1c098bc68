"""Connections that stay open with nothing coming through: noticed within 15 s, and never trusted again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest

from runstore.adapters.dispatch import RedisDispatch
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.dispatch import DispatchConfig
from runstore.feed import TailConfig
from runstore.projector import ProjectorConfig
from tests.faults.proxy import Proxy

NOTICED_S = 15.0
TIMEOUT_S = 2.0


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as made:
        yield made


async def test_one_dumb_connection_costs_one_command_and_not_each_that_was_open(proxy: Proxy) -> None:
    async with RedisStore.open(proxy.url, timeout_s=TIMEOUT_S) as store:
        await asyncio.gather(*(store.client.execute_command("PING") for _ in range(20)))
        assert proxy.connections > 1

        proxy.go_dumb()
        proxy.mend()  # whoever connects from now on gets through

        with pytest.raises(StoreUnavailable):
            await store.client.execute_command("PING")
        assert all(await asyncio.gather(*(store.client.execute_command("PING") for _ in range(20))))


@pytest.mark.parametrize("wait", ["XREAD", "dispatch"])
async def test_a_read_that_blocks_is_given_up_shortly_after_its_own_time(proxy: Proxy, wait: str) -> None:
    async with RedisStore.open(proxy.url, timeout_s=TIMEOUT_S) as store:
        dispatch = RedisDispatch(store)
        places = await dispatch.ends()
        waits: dict[str, Callable] = {
            "XREAD": lambda: store.feed.wait(dict.fromkeys(range(16), 0), 100),
            "dispatch": lambda: dispatch.listen(places, 100),
        }
        proxy.go_dumb()

        began = monotonic()
        with pytest.raises(StoreUnavailable):
            await waits[wait]()

        assert monotonic() - began < NOTICED_S


def test_the_defaults_notice_a_redis_that_is_gone_without_a_word_in_time() -> None:
    timeout_s = DispatchConfig().timeout_s  # that of every role

    for block_ms in (TailConfig().block_ms, ProjectorConfig().block_ms, DispatchConfig().block_ms):
        assert timeout_s + block_ms / 1000 < NOTICED_S
