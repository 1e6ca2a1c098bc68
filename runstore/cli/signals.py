"""Run a service until a signal asks it to stop; a second signal ends the process at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_until_asked(
    work: Callable[[], Coroutine[Any, Any, int | None]], on_asked: Callable[[], object] = lambda: None
) -> tuple[int | None, signal.Signals | None]:
    """Run work in a fresh loop, uvloop's where it is installed, and cancel it at the first signal, after `on_asked`.

    Returns what the work returned and the signal that ended it. What it holds is given back before this returns.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_asked(work, on_asked))


async def _until_asked(
    work: Callable[[], Coroutine[Any, Any, int | None]], on_asked: Callable[[], object]
) -> tuple[int | None, signal.Signals | None]:
    asked: list[signal.Signals] = []
    task = asyncio.ensure_future(work())

    def stop(number: signal.Signals) -> None:
        if asked:
            os._exit(128 + number)
        asked.append(number)
        on_asked()
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        returned = await task
    except asyncio.CancelledError:
        if not asked:
            raise
        return None, asked[0]
    else:
        return returned, asked[0] if asked else None
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
