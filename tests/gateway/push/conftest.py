from collections.abc import AsyncIterator

import pytest

from tests.gateway.push.stage import Stage, staged


@pytest.fixture
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    async with staged(redis_url) as made:
        yield made
