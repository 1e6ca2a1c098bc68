"""The second net under a run: find its processes by a mark in their environment, not by their parents.

The shim loses its hold if a model kills it with SIGKILL. What it held is then found again by two signs: the run's mark
in `/proc/*/environ`, which every child inherits, and the shim's session. Only a process that has killed the shim, left
the session and thrown its environment away carries neither. Where there is no /proc, nothing is found.
"""

import os
import secrets
import signal
import time

from runstore_worker import shim

MARK = "RUNSTORE_RUN_MARK"
GIVE_UP_S = 10.0
LOOK_AGAIN_S = 0.005


def new_mark(run_id: str) -> str:
    """Make a value for `MARK` that no other process has."""
    return f"{run_id}:{secrets.token_hex(16)}"


def marked(mark: str, session: int) -> dict[int, int]:
    """Find the living processes of a run, each with its group."""
    return {
        pid: group
        for pid, (state, _, group, its_session) in shim.processes()
        if state not in "ZX" and pid != os.getpid() and (its_session == session or _has(pid, mark))
    }


def sweep(mark: str, session: int) -> int:
    """Kill a run's processes until none is found; the number that could not be killed.

    It blocks; call it in a thread.

    Needs: a session whose leader is not reaped yet, else its number may have become another's.
    """
    until = time.monotonic() + GIVE_UP_S
    while found := marked(mark, session):
        if time.monotonic() > until:
            return len(found)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                shim.send(os.kill, pid, number)
        time.sleep(LOOK_AGAIN_S)
    return 0


def _has(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={mark}".encode() in file.read().split(b"\0")
    except OSError:
        return False
