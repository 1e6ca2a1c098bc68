"""A scripted server, and clients of it that do not wait long."""

from collections.abc import AsyncIterator

import pytest

from runstore import AsyncClient, ClientConfig
from tests.sdk.running import publisher, running
from tests.sdk.scripted import Scripted

__all__ = ["publisher", "running"]

QUICK = ClientConfig(timeout_s=30, retry_for_s=20, backoff_s=0.02, max_backoff_s=0.1, put_off_s=0.02)


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    server = Scripted()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(scripted: Scripted) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(scripted.url, token="t" * 20, config=QUICK) as opened:
        yield opened
