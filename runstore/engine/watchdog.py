"""Hold one server process and end it when its owner ends; a script of its own that imports nothing of runstore.

The rule: the server goes when the owner closes our standard input, when the owner's process ends in whatever way, or
when we are asked to. Closing alone would not do: a child that the owner forked keeps the pipe open. Should we
ourselves be killed, Linux ends the server (PR_SET_PDEATHSIG; it fires at the end of the forking *thread*, which is why
we, who have only one, do the forking and not the owner). Elsewhere the owner does it.

Arguments: owner's pid, grace in seconds, length of the configuration that is read from standard input first, program.
Standard output stays open in us and in the server: its end of file says that both have gone. Standard error is the log.
"""

import contextlib
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_OWNER_POLL_MS = 1000
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_HANDLED = _STOP_SIGNALS | {signal.SIGCHLD}


def main() -> int:
    """Start the server, wait, and return only when it has gone."""
    owner, grace_s, config_bytes, program = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.umask(0o077)
    wake = _wake_on_signals()
    owner_fd = _owner_descriptor(owner)
    server = _spawn(program, _read(0, config_bytes))
    with contextlib.suppress(OSError):
        os.write(1, b"%d\n" % server)
    if _wait_for_a_reason(owner, owner_fd, server, wake):
        _end(server, grace_s, wake)
    return 0


def _wake_on_signals() -> int:
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in _HANDLED:
        signal.signal(number, lambda *_: None)
    return wake


def _owner_descriptor(owner: int) -> int | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return os.pidfd_open(owner)
    return None


def _read(fd: int, length: int) -> bytes:
    content = b""
    while len(content) < length:
        chunk = os.read(fd, length - len(content))
        if not chunk:
            sys.exit(1)
        content += chunk
    return content


def _spawn(program: str, config: bytes) -> int:
    # through a pipe, so that the password shows neither in argv nor in a file
    config_end, write_end = os.pipe()
    os.write(write_end, config)
    os.close(write_end)
    us = os.getpid()
    # held back until the child has no handler of ours any more, which would swallow our own SIGTERM before the exec
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    server = os.fork()
    if server == 0:
        try:
            os.setpgid(0, 0)
            _die_with(us)
            _handle_nothing()
            os.dup2(config_end, 0)
            os.set_inheritable(os.dup(1), True)
            os.dup2(2, 1)
            os.execv(program, [program, "-"])  # noqa: S606  # no shell is the point
        except OSError as error:
            os.write(2, f"{program}: {error}\n".encode())
        finally:
            os._exit(127)
    _unblock()
    os.close(config_end)
    return server


def _handle_nothing() -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    _unblock()


def _unblock() -> None:
    # all of them, since the owner's thread may have blocked some and we inherited that
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait_for_a_reason(owner: int, owner_fd: int | None, server: int, wake: int) -> bool:
    """Return True when the server must be ended, False when it has ended by itself."""
    poller = select.poll()
    for fd in (0, wake, owner_fd):
        if fd is not None:
            poller.register(fd, select.POLLIN)
    while os.getppid() == owner:
        ready = {fd for fd, _ in poller.poll(_OWNER_POLL_MS if owner_fd is None else None)}
        signals = _signals(wake)
        if _reaped(server):
            return False
        if ready - {wake} or signals & _STOP_SIGNALS:
            break
    return True


def _end(server: int, grace_s: float, wake: int) -> None:
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    deadline = time.monotonic() + grace_s
    os.kill(server, signal.SIGTERM)
    while not _reaped(server):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            os.killpg(server, signal.SIGKILL)
            os.waitpid(server, 0)
            return
        poller.poll(left_s * 1000)
        _signals(wake)


def _signals(wake: int) -> set[int]:
    with contextlib.suppress(BlockingIOError):
        return set(os.read(wake, 512))
    return set()


def _reaped(server: int) -> bool:
    return os.waitpid(server, os.WNOHANG)[0] == server


if __name__ == "__main__":
    sys.exit(main())
