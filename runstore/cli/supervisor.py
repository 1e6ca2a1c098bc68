"""Tell systemd, or whoever started us as it would, that we are ready, alive and about to stop (sd_notify(3)).

Alive is told by the event loop itself, so a loop that hangs is told by silence.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_PATIENCE_S: Final = 0.2


def tell(state: str, environment: Mapping[str, str] | None = None) -> bool:
    """Send a state to `NOTIFY_SOCKET`; false where there is none, or nobody listens there."""
    address = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return False
    place = "\0" + address[1:] if address[0] == "@" else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sent:
        sent.settimeout(_PATIENCE_S)  # a supervisor that hangs must not hang us
        sent.connect(place)
        sent.send(state.encode())
        return True
    return False


def stopping() -> None:
    """Say that we are about to stop."""
    tell("STOPPING=1")


def beat_every_s(environment: Mapping[str, str] | None = None) -> float | None:
    """Return how often to say that we are alive: three times in the time after which we would be taken for dead."""
    told = os.environ if environment is None else environment
    micros, pid = told.get("WATCHDOG_USEC", ""), told.get("WATCHDOG_PID", "")
    if not micros.isdigit() or int(micros) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 3_000_000


def hold_alive() -> None:
    """Say that we are alive for as long as this process can run Python: for one that only holds others."""
    if (every_s := beat_every_s()) is not None:
        signal.signal(signal.SIGALRM, lambda *_: tell("WATCHDOG=1"))
        signal.setitimer(signal.ITIMER_REAL, every_s, every_s)


def watched(work: Callable[[], Coroutine[Any, Any, _T]]) -> Callable[[], Coroutine[Any, Any, _T]]:
    """Do work and say meanwhile, also while it stops, that the loop turns."""

    async def both() -> _T:
        if (every_s := beat_every_s()) is None:
            return await work()
        beat = asyncio.create_task(_beat(every_s), name="runstore-watchdog")
        try:
            return await work()
        finally:
            beat.cancel()

    return both


async def _beat(every_s: float) -> None:
    while True:
        tell("WATCHDOG=1")
        await asyncio.sleep(every_s)
