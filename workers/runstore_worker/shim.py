"""Hold one run's process tree, and leave nothing of it behind.

The worker starts this file as a script, one process a run: `python -I -S shim.py CONTROL REPORT GRACE_MS SPARE
COMMAND…`, in a session of its own. It starts the command in a process group of its own and waits for the first of three
things: the command ended, the worker wrote a `T` to the control pipe (terminate: SIGTERM to the group, then the grace),
or the control pipe closed (kill at once: also what the worker's own sudden death looks like). Then every descendant is
killed; but where SPARE is 1 and the command ended untold, what outlives it is left alone. Any other byte on the control
pipe is the number of a signal to pass on to the group.

**Nobody escapes by leaving.** Leaving the group or the session (`setsid`, a double fork) is easy, so groups prove
nothing. The shim is a child subreaper: what loses its parent becomes its own child. So "no child left" (`ECHILD`) means
"no descendant left", and nothing else does.

**Nobody escapes by forking.** All are frozen before any is killed, so no watcher sees its ward die. What was
forked meanwhile is there in the next round; `killpg` is atomic against `fork`, and the direct children, where a process
that only forks and exits is bound to surface, are struck first and at once.

On systems without `prctl` and `/proc` (macOS) only the command's own process group is killed.

The pipe REPORT tells one line: `ended CODE TOLD` (CODE is minus the signal if there was one; TOLD is 1 if the end came
after terminate) or `refused ERRNO`. Its end of file is the shim's own end. Only the standard library is used, and
little of it, since each run waits for this start.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
GIVE_UP_S = 15.0  # a process that is stuck in the kernel, or not ours to kill, must not hold the worker for ever
LOOK_AGAIN_S = 0.02
TERMINATE = b"T"  # past all numbers of signals
DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def prctl(option: int, value: int) -> bool:
    """Set a property of this process; false where the system has no such call."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def stat(pid: str | int) -> tuple[str, int, int, int] | None:
    """Read a process's state, parent, group and session; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    state, *numbers = line[line.rindex(b")") + 2 :].split()[:4]  # the name before may hold anything, brackets too
    parent, group, session = map(int, numbers)
    return state.decode(), parent, group, session


def processes() -> Iterator[tuple[int, tuple[str, int, int, int]]]:
    """List the system's processes; none where there is no /proc."""
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for name in names:
        if name.isdigit() and (found := stat(name)) is not None:
            yield int(name), found


def send(call: Callable[[int, int], None], target: int, number: int) -> bool:
    """Send a signal to whom it may no longer concern; whether there was anybody."""
    try:
        call(target, number)
    except OSError:
        return False
    return True


def strike(pids: dict[int, int], number: int) -> None:
    """Send a signal to processes (each with its group) and to their whole groups, but never to the caller's own."""
    for group in set(pids.values()) - {os.getpgrp(), 0}:
        send(os.killpg, group, number)
    for pid in pids:
        send(os.kill, pid, number)


def descendants(root: int) -> dict[int, int]:
    """Find everything beneath a process, each with its group."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid, (_, parent, group, _) in processes():
        children.setdefault(parent, []).append((pid, group))
    found: dict[int, int] = {}
    rest = [root]
    while rest:
        for pid, group in children.get(rest.pop(), ()):
            found[pid] = group
            rest.append(pid)
    return found


def freeze_children() -> None:
    """Stop the direct children within microseconds of seeing them: a full look takes longer than some lives."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            pids = file.read().split()
    except OSError:
        return
    for pid in pids:
        send(os.kill, int(pid), signal.SIGSTOP)


class Tree:
    """The command and all that came of it."""

    def __init__(self, command: int, report: int) -> None:
        self.command = command
        self.report = report
        self.told = False
        self.ended = False

    def reap(self) -> bool:
        """Collect the dead; false when no child is left, hence no descendant."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.command:
                self.ended = True
                tell(self.report, f"ended {os.waitstatus_to_exitcode(status)} {int(self.told)}")

    def hold(self, control: int, woken: int, grace_s: float) -> None:
        """Wait until the command ended, its grace is over or the worker is gone."""
        until: float | None = None
        while self.reap():
            if self.ended and (until is None or not send(os.killpg, self.command, 0)):
                return
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            ready = select.select([control, woken], [], [], left and min(left, LOOK_AGAIN_S))[0]
            if woken in ready:
                os.read(woken, 4096)
            elif control in ready:
                byte = os.read(control, 1)
                if not byte:
                    return
                if byte != TERMINATE:
                    send(os.killpg, self.command, byte[0])
                    continue
                self.told = True
                until = until or time.monotonic() + grace_s
                send(os.killpg, self.command, signal.SIGTERM)
                send(os.killpg, self.command, signal.SIGCONT)  # a stopped process would not hear it

    def kill(self, woken: int) -> None:
        """Kill until no descendant is left."""
        until = time.monotonic() + GIVE_UP_S
        while self.reap() and time.monotonic() < until:
            freeze_children()
            living = descendants(os.getpid()) or {self.command: self.command}
            strike(living, signal.SIGSTOP)
            strike(living, signal.SIGKILL)
            if select.select([woken], [], [], LOOK_AGAIN_S)[0]:
                os.read(woken, 4096)


def tell(report: int, line: str) -> None:
    """Tell the worker, if there still is one."""
    try:
        os.write(report, f"{line}\n".encode())
    except OSError:
        return


def waker() -> int:
    """Make a pipe that is readable when a child has ended."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def main(control: int, report: int, grace_s: float, spare: bool, command: list[str]) -> None:
    """Start the command, hold it, and kill what is left of it."""
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)  # nobody reaches into these pipes by way of /proc
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    woken = waker()
    usual = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=(), setsigdef=usual)
    except OSError as error:
        tell(report, f"refused {error.errno}")
        return
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # so that their end is the end of those who write to them
        os.dup2(null, stream)
    tree = Tree(pid, report)
    tree.hold(control, woken, grace_s)
    if not (spare and tree.ended and not tree.told):
        tree.kill(woken)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000, sys.argv[4] == "1", sys.argv[5:])
    os._exit(0)
