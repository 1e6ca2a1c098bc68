"""Fixtures of those who speak to a whole runstore from outside of Python: all of it, and one who publishes into it."""

from collections.abc import AsyncIterator

import pytest

from runstore import AsyncPublisher
from tests.sdk.live import Live, live


@pytest.fixture
async def running(redis_url: str) -> AsyncIterator[Live]:
    async with live(redis_url) as started:
        yield started


@pytest.fixture
async def publisher(running: Live) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(running.redis_url, "forecasts") as opened:
        yield opened
