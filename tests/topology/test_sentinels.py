"""Who is asked for the primary, and how often."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runstore.adapters.connection import connect
from runstore.adapters.sentinel import Sentinels


class Deaf:
    """A server that hangs up on everybody, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    async def hear(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        writer.close()


@pytest.fixture
async def deaf() -> AsyncIterator[tuple[Deaf, int]]:
    made = Deaf()
    async with await asyncio.start_server(made.hear, "127.0.0.1", 0) as server:
        yield made, server.sockets[0].getsockname()[1]


async def test_while_no_sentinel_answers_a_connection_is_trusted_and_nobody_asked_each_time(
    deaf: tuple[Deaf, int],
) -> None:
    counter, port = deaf
    sentinels = Sentinels(
        (("127.0.0.1", port),),
        "mymaster",
        lambda host, port: connect(f"redis://{host}:{port}", max_connections=1, timeout_s=1),
    )

    answers = [await sentinels.is_primary("127.0.0.1", 1) for _ in range(50)]
    await sentinels.aclose()

    assert answers == [True] * 50
    assert counter.asked <= 2
