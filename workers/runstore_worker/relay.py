"""Pass streams of a command on to ours as they come, byte for byte, and keep their ends.

A stream of ours that is a terminal gives the command a terminal too, or programs would hold their lines back and leave
out their colours. That one changes nothing on the way: it is raw, and ours does the rest.

A relay is a thread. Whoever reads slowly holds the command back, and nobody else; whoever stops reading is gone for the
command as well, which then gets what a writer gets whose reader has left. Streams that go to the same place share a
relay, so that what was written at different times does not change places.
"""

import contextlib
import os
import select
import termios
import threading
import tty
from collections.abc import Sequence

from runstore_worker.tail import Tail

CHUNK_BYTES = 64 * 1024
LINGER_S = 10.0


class Stream:
    """One stream: `theirs` is the command's end, to be closed here once the command has it."""

    def __init__(self, into: int, keep: Tail) -> None:
        self.into = into
        self._keep: Tail | None = keep
        self._is_terminal = os.isatty(into)
        self.ours, self.theirs = _terminal() if self._is_terminal else os.pipe()
        self.resize()

    def resize(self) -> None:
        """Give the command's terminal the size of ours."""
        if self._is_terminal:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetwinsize(self.ours, termios.tcgetwinsize(self.into))

    def step(self) -> bool:
        """Pass on what is there; false at the end. Needs: something to be there, or it blocks."""
        try:
            chunk = os.read(self.ours, CHUNK_BYTES)
        except OSError:  # a terminal that nobody writes to any more
            return False
        self._remember(chunk)
        return bool(chunk) and self._pass_on(chunk)

    def _remember(self, chunk: bytes) -> None:
        try:
            if self._keep is not None:
                self._keep.write(chunk)
        except OSError:  # a full disk is in nobody's way here
            self._keep = None

    def _pass_on(self, chunk: bytes) -> bool:
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self.into, rest) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.into, select.POLLOUT)
                poll.poll()
            except OSError:  # its reader has left
                return False
        return True


class Relay:
    """The thread of one stream or more."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = {stream.ours: stream for stream in streams}
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="runstore-relay", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Pass on what is there by now, and return; not what others write who outlive the command.

        Blocks, but not for longer than a reader may take who does not read at all.
        """
        os.close(self._waker)
        self._thread.join(LINGER_S)

    def _run(self) -> None:
        poll = select.poll()
        for fd in (*self._streams, self._wake):
            poll.register(fd, select.POLLIN)
        while self._streams:
            ready = [self._streams[fd] for fd, _ in poll.poll() if fd != self._wake]
            if not ready:
                break
            for stream in ready:
                if not stream.step():
                    poll.unregister(stream.ours)
                    os.close(self._streams.pop(stream.ours).ours)
        for fd in (*self._streams, self._wake):
            os.close(fd)


def relays(*streams: Stream) -> list[Relay]:
    """Begin to pass streams on, those that go to the same place together."""
    places: dict[tuple[int, int], list[Stream]] = {}
    for stream in streams:
        try:
            found = os.fstat(stream.into)
            place = (found.st_dev, found.st_ino)
        except OSError:  # it is closed
            place = (-1, stream.into)
        places.setdefault(place, []).append(stream)
    return [Relay(together) for together in places.values()]


def _terminal() -> tuple[int, int]:
    """Make a terminal that changes nothing on the way; a pipe where there is none to be had."""
    try:
        ours, theirs = os.openpty()
    except OSError:
        return os.pipe()
    tty.setraw(theirs)
    return ours, theirs
