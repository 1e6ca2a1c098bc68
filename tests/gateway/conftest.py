"""A gateway and a projector over a real server, and a client that speaks to it on a real socket."""

from collections.abc import AsyncIterator

import pytest

from runstore.adapters.store import RedisStore
from runstore.gateway import Gateway
from runstore.projector import Projector
from tests.gateway.builders import Site, StandIn, site_over


@pytest.fixture
async def gateway_store(redis_url: str) -> AsyncIterator[StandIn]:
    """An empty store."""
    async with RedisStore.open(redis_url) as opened:
        yield StandIn(opened)


@pytest.fixture
async def site(gateway_store: StandIn) -> AsyncIterator[Site]:
    """A gateway that answers, with a projector that keeps up."""
    async with Projector(gateway_store.redis), site_over(gateway_store) as made:
        yield made


@pytest.fixture
async def gateway(site: Site) -> Gateway:
    """The gateway of `site`."""
    return site.gateway
