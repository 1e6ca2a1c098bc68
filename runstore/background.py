"""A loop in a thread of its own, for the blocking faces of what is asynchronous underneath."""

import asyncio
import logging
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_STOP_S: Final = 5.0
_CLEAN_UP_S: Final = 15.0
CleanUp = Callable[[], Coroutine[Any, Any, None]]
_LOG: Final = logging.getLogger("runstore")
_all: Final["weakref.WeakSet[Background]"] = weakref.WeakSet()


class Background:
    """Runs coroutines for any number of threads. The thread begins with the first, and is a daemon.

    `clean_up` is run before it ends: by `stop`, when the Background is dropped, or with the process. One that another
    one's `clean_up` still needs, and stops, `is_anothers`: it does not end with the process by itself, and so too soon.
    A child made by fork has no such thread: `is_foreign` says so there, and a new Background is needed.
    """

    def __init__(self, name: str, clean_up: CleanUp, *, is_anothers: bool = False) -> None:
        self._name = name
        self._is_anothers = is_anothers
        self._clean_up = clean_up
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        _all.add(self)

    @property
    def is_foreign(self) -> bool:
        """Whether this was made in another process, whose thread is not here."""
        return os.getpid() != self._pid

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, begun when first asked for."""
        with self._lock:
            if self._loop is None:
                loop = asyncio.SelectorEventLoop()
                thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                thread.start()
                self._loop, self._thread = loop, thread
                self._finalizer = weakref.finalize(self, _stop, loop, thread, self._pid, self._clean_up)
                self._finalizer.atexit = not self._is_anothers
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

    def submit(self, work: Coroutine[Any, Any, _T]) -> "Future[_T]":
        """Begin a coroutine, and return its future at once; coroutines begin in the order in which they came."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """End the thread, and whatever it still does, within seconds; may be called twice."""
        with self._lock:
            finalizer, self._finalizer, self._loop = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def disown(self) -> None:
        """Cut off, in a forked child, what it inherited: the loop's selector is one and the same as the parent's.

        A connection that is dropped here would otherwise take the parent's own out of it, which then hears nothing.
        """
        if self._loop is not None:
            inherited: selectors.BaseSelector = self._loop._selector  # type: ignore[attr-defined]
            self._loop._selector = selectors.DefaultSelector()  # type: ignore[attr-defined]
            inherited.close()


def _disown_all() -> None:
    for background in list(_all):
        background.disown()


os.register_at_fork(after_in_child=_disown_all)


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


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int, clean_up: CleanUp) -> None:
    if os.getpid() != pid or loop.is_closed():
        return

    async def finish() -> None:
        try:
            await asyncio.wait_for(clean_up(), _CLEAN_UP_S)
        except Exception:  # noqa: BLE001 - the thread ends all the same
            _LOG.exception("clean_up_failed")
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(finish(), loop)
    # The collector may drop a Background in its own thread, which cannot wait for itself.
    if thread is not threading.current_thread():
        thread.join(_CLEAN_UP_S + 2 * _STOP_S)
