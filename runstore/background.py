"""A loop in a thread of its own, for the blocking faces of what is asynchronous underneath, and the other way round."""

import asyncio
import contextlib
import logging
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_STOP_S: Final = 5.0
_CLEAN_UP_S: Final = 15.0
CleanUp = Callable[[], Coroutine[Any, Any, None]]
_LOG: Final = logging.getLogger("runstore")
_all: Final["weakref.WeakSet[Background]"] = weakref.WeakSet()


async def off_loop(act: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do something that takes its time in a thread or, where the interpreter is ending and starts none, here."""
    try:
        return await asyncio.to_thread(act, *args, **kwargs)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        return act(*args, **kwargs)


class NoThread(RuntimeError):
    """No thread can be started: the interpreter is ending, or the system has no more."""


class Background:
    """Runs coroutines for any number of threads. The thread begins with the first, and is a daemon.

    `clean_up` is run before it ends: by `stop`, when the Background is dropped, or with the process. One that another
    one's `clean_up` still needs, and stops, has `ends_with_process` false: it would end by itself, and so too soon.
    So has one that is made late, in place of one that has ended with the process: daemon threads may go on for ever.
    A child made by fork has no such thread: `is_foreign` says so there, and a new Background is needed.
    """

    def __init__(self, name: str, clean_up: CleanUp, *, ends_with_process: bool = True) -> None:
        self._name = name
        self._ends_with_process = ends_with_process
        self._clean_up = clean_up
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal's handler may come in between, in the same thread
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._was_alone = False
        _all.add(self)

    @property
    def is_foreign(self) -> bool:
        """Whether this was made in another process, whose thread is not here."""
        return os.getpid() != self._pid

    @property
    def is_at_work(self) -> bool:
        """Whether the thread has begun, and has not ended."""
        return self._loop is not None and not self._loop.is_closed()

    @property
    def is_over(self) -> bool:
        """Whether it has cleaned up because the process is ending; what still comes then needs a new Background."""
        return self._was_alone or (self._loop is not None and self._loop.is_closed())

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, begun when first asked for. Raises: NoThread."""
        with self._lock:
            return self._loop or self._started()

    def _started(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            loop.close()
            raise NoThread(str(error)) from None
        if self._loop is not None:  # a signal's handler was quicker
            loop.call_soon_threadsafe(loop.stop)
            return self._loop
        self._loop, self._thread = loop, thread
        self._finalizer = weakref.finalize(self, _stop, loop, thread, self._pid, self._clean_up)
        self._finalizer.atexit = self._ends_with_process
        return loop

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end and return what it returns; a Ctrl-C meanwhile cancels it.

        Where no thread can be started any more, since the interpreter is ending, it is run here and cleaned up after.

        Raises: what the coroutine raises; RuntimeError when called from the loop's own thread, or in another process.
        """
        if self.is_foreign:
            work.close()
            raise RuntimeError("this belongs to the process that this one was forked from")
        try:
            loop = self.loop
        except NoThread:
            return self._run_alone(work)
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call from the background thread would wait for itself")
        assert self._thread is not None
        return _Call(loop, work).result(self._thread)

    def _run_alone(self, work: Coroutine[Any, Any, _T]) -> _T:
        async def act() -> _T:
            try:
                return await work
            finally:
                await self._clean_up()

        self._was_alone = True
        loop = asyncio.SelectorEventLoop()
        try:
            return loop.run_until_complete(act())
        finally:
            loop.close()

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
        self._lock = threading.RLock()  # another thread may have held it
        if self._loop is not None:
            inherited: selectors.BaseSelector = self._loop._selector  # type: ignore[attr-defined]
            self._loop._selector = selectors.DefaultSelector()  # type: ignore[attr-defined]
            inherited.close()


class _Call(Generic[_T]):
    """A coroutine that a thread waits for, by nothing but a lock that only the other side opens.

    A future's result() holds the future's own lock for moments: a signal's handler that came in between, and called
    as well, would wait for a loop that waits for that lock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[_T] | None = None
        self._is_cancelled = False
        self._done = threading.Lock()
        self._done.acquire()
        try:
            loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            work.close()
            raise

    def result(self, thread: threading.Thread) -> _T:
        try:
            while not self._done.acquire(timeout=_STOP_S) and thread.is_alive():
                pass
        except BaseException:
            self._is_cancelled = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel)
            raise
        if self._task is None or not self._task.done() or self._task.cancelled():
            raise RuntimeError("it was closed while a call was under way")
        return self._task.result()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(lambda _: self._done.release())
        if self._is_cancelled:
            self._task.cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _disown_all() -> None:
    for background in list(_all):
        background.disown()


os.register_at_fork(after_in_child=_disown_all)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        until = loop.time() + _STOP_S
        while (tasks := asyncio.all_tasks(loop)) and loop.time() < until:  # what came last may have begun only now
            for task in tasks:
                task.cancel()
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
