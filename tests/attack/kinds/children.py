"""Models whose children would outlive them: each leaves its parent in another way, and none may be there afterwards."""

import os
from pathlib import Path

from tests.attack.attack import Attack, Plan, Tally, each
from tests.attack.kinds.obedience import obey
from tests.attack.site import Site
from tests.worker.conftest import Witness

PRELUDE = """
import os, signal, subprocess, sys, time
witness = os.open({fifo!r}, os.O_WRONLY)
os.set_inheritable(witness, True)
def live():
    while os.path.exists({fifo!r}): time.sleep(0.05)  # for ever, but for an attack that is over
    os._exit(0)
def child(work=lambda: None):
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        work()
        os.write(write, b"x")
        live()
    os.read(read, 1)
    return pid
def leave():
    os.setsid()
    if os.fork(): os._exit(0)
def deaf():
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
"""
WAYS = {
    "a child": "child()",
    "a session of its own": "child(os.setsid)",
    "a double fork": "child(leave)",
    "a double fork that is deaf": "child(lambda: (leave(), deaf()))",
    "deaf to all signals": "child(deaf)",
    "without standard streams": "child(lambda: (os.setsid(), [os.close(fd) for fd in (0, 1, 2)]))",
    "with its streams held open": "child(os.setsid); sys.stdout.flush()",
    "another program": "subprocess.Popen(['sleep', '60'], start_new_session=True, close_fds=False)",
    "nohup in the background": "subprocess.Popen('nohup sleep 60 >/dev/null 2>&1 &', shell=True, close_fds=False)",
    "an empty environment": "subprocess.Popen(['sleep', '60'], env={}, start_new_session=True, close_fds=False)",
    "stopped": "os.kill(child(os.setsid), signal.SIGSTOP)",
    "a deep line": "\nfor depth in range(20):\n    if os.fork(): break\n    os.setsid()\nelse: pass\nif depth: live()",
    "forty": "[child(os.setsid) for _ in range(40)]",
    "one that forks on and on": "child(lambda: [os.fork() and os._exit(0) for _ in range(200)] and None)",
    "in another folder": "child(lambda: (leave(), os.chdir('/'), os.umask(0)))",
    "killed by itself": "child(leave); os.kill(os.getpid(), signal.SIGKILL)",
    "a bad end": "child(leave); sys.exit(7)",
    "past its time": "child(lambda: (leave(), deaf())); deaf(); live()",
}
ENDS = {"killed by itself": {"failed"}, "a bad end": {"failed"}, "past its time": {"timed_out"}}


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Have each way gone, four at a time."""
    ways = list(WAYS.items())

    async def one(number: int) -> None:
        name, code = ways[number % len(ways)]
        await _way(site, tally, name, code, number)

    await each(plan.numbers(), 4, one)


async def _way(site: Site, tally: Tally, name: str, code: str, number: int) -> None:
    witness = Witness(Path(site.folder) / f"witness-{number}")
    try:
        asked = {"timeout_s": 2.0} if name == "past its time" else {}
        ended = await obey(site, tally, name, PRELUDE.format(fifo=str(witness.path)) + code, number, **asked)
        if ended is None:
            return
        if ended.status not in ENDS.get(name, {"success"}):
            tally.fail(f"{name}: ended as {ended.status}", number, code, (ended.reason, ended.stderr[-1000:]))
        # the end is told once all are gone: the witness's pipe has no writer left
        if not witness.everybody_is_gone():
            tally.fail(f"{name}: a child that outlived its run", number, code)
    finally:
        witness.path.unlink()
        os.close(witness.fd)


ATTACK = Attack(
    name="children",
    checks="when the end of a run is told, no process of it is left, whichever way it left its parent",
    least=4,
    most=2 * len(WAYS),
    run=run,
)
