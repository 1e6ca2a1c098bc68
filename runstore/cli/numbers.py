"""The numbers of a service: gathered, and given out on a port of their own where one is set."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from runstore.cli.several import reserve_port
from runstore.lifecycle import started
from runstore.metrics import Board, MetricsServer, Numbers
from runstore.metrics.server import CannotListen


class Telling:
    """Where the numbers of a service's processes are given out. `port` None: nowhere but by the service itself."""

    def __init__(self, host: str, port: int | None, processes: int) -> None:
        self.host = host
        self.port = port
        self.board = Board(processes) if processes > 1 else None

    @property
    def is_shared(self) -> bool:
        """Whether several processes listen on the port."""
        return self.board is not None


@contextmanager
def telling(host: str, port: int | None, processes: int) -> Iterator[Telling]:
    """Hold the port for processes that are yet to be forked, if there is one and they are several.

    Raises: CannotListen.
    """
    told = Telling(host, port, processes)
    if port is None or processes == 1:
        yield told
        return
    try:
        reserved: socket.socket = reserve_port(host, port)
    except OSError as error:
        raise CannotListen(host, port, error) from None
    with reserved:
        told.port = reserved.getsockname()[1]
        yield told


@asynccontextmanager
async def given_out(told: Telling, seat: int) -> AsyncIterator[tuple[Numbers, MetricsServer | None]]:
    """Hold the numbers of one process, and its port, for the length of an `async with`.

    Raises: CannotListen.
    """
    from runstore.adapters.counted import redis_numbers

    numbers = Numbers(told.board, seat)
    numbers.add(redis_numbers)
    if told.port is None:
        async with started(numbers):
            yield numbers, None
        return
    server = MetricsServer(numbers, told.host, told.port, reuse_port=told.is_shared)
    async with started(server), started(numbers):
        yield numbers, server
