"""The numbers of a service: gathered, and given out on a port of their own where one is set."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from runstore.cli.exits import Trouble
from runstore.cli.several import reserve_port
from runstore.lifecycle import started
from runstore.metrics import Board, MetricsServer, Numbers


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

    Raises: Trouble.
    """
    told = Telling(host, port, processes)
    if port is None or processes == 1:
        yield told
        return
    try:
        reserved: socket.socket = reserve_port(host, port)
    except OSError as error:
        raise taken(host, port, error) from None
    with reserved:
        told.port = reserved.getsockname()[1]
        yield told


@asynccontextmanager
async def given_out(told: Telling, seat: int) -> AsyncIterator[tuple[Numbers, MetricsServer | None]]:
    """Hold the numbers of one process, and its port, for the length of an `async with`.

    Raises: Trouble where the port is taken.
    """
    from runstore.adapters.counted import redis_numbers

    numbers = Numbers(told.board, seat)
    numbers.add(redis_numbers)
    if told.port is None:
        async with started(numbers):
            yield numbers, None
        return
    server = MetricsServer(numbers, told.host, told.port, reuse_port=told.is_shared)
    try:
        await server.start()
    except OSError as error:
        raise taken(told.host, told.port, error) from None
    try:
        async with started(numbers):
            yield numbers, server
    finally:
        with suppress(OSError):
            await server.stop()


def taken(host: str, port: int, error: OSError) -> Trouble:
    """Say why the numbers cannot be given out there."""
    import errno

    if error.errno == errno.EADDRINUSE:
        return Trouble(f"{host}:{port} is taken by another program: give another --metrics-port, or 0 for any free one")
    return Trouble(f"cannot listen on {host}:{port} for metrics: {error.strerror or error}")
