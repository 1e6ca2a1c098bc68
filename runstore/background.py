"""A loop in a thread of its own, for the blocking faces of what is asynchronous underneath."""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_STOP_S: Final = 5.0


class Background:
    """Runs coroutines for any number of threads. The thread begins with the first, and is a daemon.

    A child made by fork has no such thread: `is_foreign` says so there, and a new Background is needed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether this was made in another process, whose thread is not here."""
        return os.getpid() != self._pid

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, begun when first asked for."""
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                thread.start()
                self._loop, self._thread = loop, thread
                self._finalizer = weakref.finalize(self, _stop, loop, thread, self._pid)
            return self._loop

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end and return what it returns; a Ctrl-C meanwhile cancels it.

        Raises: what the coroutine raises; RuntimeError when called from the loop's own thread.
        """
        loop = self.loop
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call from the background thread would wait for itself")
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("it was closed while a call was under way") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread, and whatever it still does, within seconds; may be called twice."""
        with self._lock:
            finalizer, self._finalizer, self._loop = self._finalizer, None, None
        if finalizer is not None:
            finalizer()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_STOP_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid or loop.is_closed():
        return
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(2 * _STOP_S)
