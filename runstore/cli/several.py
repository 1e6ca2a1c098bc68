"""One service in several processes: forked before anything is opened, held, and ended together.

The first of them that ends by itself ends all: whoever started the command starts it again, as it would one process.
The others notice the end of the one that holds them by a pipe, in whatever way it ends.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, NoReturn

from runstore.cli.exits import Exit, Trouble, of_error
from runstore.cli.screen import complain
from runstore.core.errors import RunstoreError

MOST_PROCESSES: Final = 256
_ASKED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Tell = Callable[[bytes], None]


def check_processes(processes: int) -> int:
    """Return a number of processes if there can be so many. Raises: Trouble."""
    if not 1 <= processes <= MOST_PROCESSES:
        raise Trouble(f"--processes {processes}: from 1 to {MOST_PROCESSES}")
    return processes


def reserve_port(host: str, port: int) -> socket.socket:
    """Take a port that several processes will listen on; the socket itself never listens. Raises: OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    reserved = socket.socket(family, kind, protocol)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except BaseException:
        reserved.close()
        raise
    return reserved


def serve_several(count: int, serve: Callable[[Tell, int, int], int], ready: Tell) -> int:
    """Run `serve` in so many processes, and return when they have ended.

    It is given what to tell once it is ready, a descriptor whose end of file says that it is to stop, and which of the
    processes it is, from 0; `ready` hears what the first one told, when all have told it.
    """
    life, held = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    children, told = [], []
    for seat in range(count):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(held)
            os.close(out)
            _be_one(serve, into, life, seat)
        os.close(into)
        children.append(child)
        told.append(out)
    os.close(life)
    return _hold(children, told, ready)


def _be_one(serve: Callable[[Tell, int, int], int], into: int, life: int, seat: int) -> NoReturn:
    """Serve, in a process group of its own: what a terminal sends reaches the holder, who passes it on."""
    code: int = Exit.FAILED
    try:
        os.setpgrp()

        def tell(line: bytes) -> None:
            os.write(into, line + b"\n")
            os.close(into)

        code = serve(tell, life, seat)
    except RunstoreError as error:
        complain(error.detail)
        code = of_error(error)
    except BaseException:  # noqa: BLE001 - this process has nobody else to tell
        import traceback

        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _hold(children: list[int], told: list[int], ready: Tell) -> int:
    left, asked = set(children), list[int]()

    def pass_on(number: int, _: object) -> None:
        for child in left:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL if asked else signal.SIGTERM)
        asked.append(number)

    before = {number: signal.signal(number, pass_on) for number in _ASKED}
    try:
        lines = [_read_line(out) for out in told]
        if all(lines):
            ready(lines[0])
        code: int = Exit.SUCCESS
        while left:
            child, status = os.wait()
            left.discard(child)
            ended = os.waitstatus_to_exitcode(status)
            if not asked:
                code = ended if ended > 0 else Exit.FAILED
                pass_on(0, None)
        return 128 + asked[-1] if asked[0] and len(asked) > 1 else code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_line(out: int) -> bytes:
    with os.fdopen(out, "rb") as pipe:
        return pipe.readline().strip()


async def until_let_go(life: int, work: Coroutine[Any, Any, int | None]) -> int | None:
    """Do work, as if asked to stop by a signal once the holder has gone."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(life)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(life, stop)
    try:
        return await work
    finally:
        loop.remove_reader(life)
