"""Nobody is left: whatever the model's processes do, and whoever of the others dies."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from runstore_worker.process import Cancelled, Exited, Signalled

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only the group can be killed without /proc")


async def test_a_grandchild_that_holds_the_output_open_does_not_outlive_the_command(bench, witness):
    outcome = await bench.run(*witness.argv("child(lambda: child(lambda: None)); print('end')"))

    assert outcome == Exited(code=0)
    assert bench.said("stdout") == b"end\n"
    assert witness.everybody_is_gone()


async def test_a_daemon_by_setsid_and_double_fork_does_not_outlive_the_command(bench, witness):
    outcome = await bench.run(*witness.argv("child(leave); child(lambda: (leave(), child(leave)))"))

    assert outcome == Exited(code=0)
    assert witness.everybody_is_gone()


async def test_a_daemon_without_environment_does_not_outlive_the_command(bench, witness):
    code = """
os.set_inheritable(witness, True)
def work():
    leave()
    if os.fork() == 0: os.execve("/bin/sleep", ["sleep", "60"], {})
child(work)
"""

    await bench.run(*witness.argv(code))

    assert witness.everybody_is_gone()


async def test_watchers_that_start_each_other_anew_do_not_outlive_the_command(bench, witness):
    code = """
def watch():
    leave()
    if os.fork() == 0:
        signal.alarm(60)
        while True:
            ward = os.fork()
            if ward == 0:
                signal.alarm(60)
                os.setsid()
                while True: signal.pause()
            os.waitpid(ward, 0)
for _ in range(5): child(watch)
"""

    await bench.run(*witness.argv(code))

    assert witness.everybody_is_gone()


@pytest.mark.parametrize("leaving", ["pass", "os.setsid()"])
async def test_a_process_that_only_forks_and_exits_is_caught(bench, witness, leaving):
    code = f"""
end = time.monotonic() + 60
def comet():
    if os.fork() == 0:
        while time.monotonic() < end:
            {leaving}
            if os.fork(): os._exit(0)
for _ in range(3): child(comet)
"""

    await bench.run(*witness.argv(code))

    assert witness.everybody_is_gone()


async def test_a_fork_bomb_is_put_out(bench, witness):
    code = """
import resource
say("ready")
for _ in range(6): os.fork()
while True: signal.pause()
"""

    running = asyncio.create_task(bench.run(*witness.argv(code), grace_s=0))
    await witness.hears("ready")
    bench.cancel.set()

    assert await running == Cancelled()
    assert witness.everybody_is_gone()


async def test_a_model_that_kills_its_shim_leaves_nobody(bench, witness):
    code = """
child(leave)
def join_nobody():
    os.setsid()
    os.set_inheritable(witness, True)
    if os.fork() == 0: os.execv("/bin/sleep", ["sleep", "60"])
child(join_nobody)
os.kill(os.getppid(), signal.SIGKILL)
while True: signal.pause()
"""

    outcome = await bench.run(*witness.argv(code))

    assert outcome == Signalled(signal=signal.SIGKILL)
    assert witness.everybody_is_gone()


async def test_a_model_that_kills_its_shim_and_drops_the_mark_is_found_by_its_session(bench, witness):
    code = """
os.set_inheritable(witness, True)
if os.fork() == 0: os.execve("/bin/sleep", ["sleep", "60"], {})
os.kill(os.getppid(), signal.SIGKILL)
"""

    await bench.run(*witness.argv(code))

    assert witness.everybody_is_gone()


async def test_a_model_cannot_talk_its_shim_into_ending(bench, witness):
    code = """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1): os.kill(os.getppid(), number)
child(leave)
sys.exit(3)
"""

    assert await bench.run(*witness.argv(code)) == Exited(code=3)
    assert witness.everybody_is_gone()


async def test_a_model_that_stopped_its_shim_can_still_be_cancelled(bench, witness):
    code = """
os.kill(os.getppid(), signal.SIGSTOP)
say("ready")
while True: signal.pause()
"""

    running = asyncio.create_task(bench.run(*witness.argv(code)))
    await witness.hears("ready")
    bench.cancel.set()

    assert await running == Cancelled()
    assert witness.everybody_is_gone()


WORKER = """
import asyncio, sys
from pathlib import Path
from runstore_worker.held import Command
from runstore_worker.process import Logs, execute
from runstore_worker.tail import Tail

async def main(folder, *argv):
    async def ignore(stream, chunk): pass
    logs = Logs(stdout=Tail(Path(folder, "o")), stderr=Tail(Path(folder, "e")))
    command = Command(run_id="r", argv=argv, cwd=Path(folder), env={}, timeout_s=1000, grace_s=1000)
    await execute(command, logs=logs, on_chunk=ignore, cancel=asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_worker_leaves_nobody(tmp_path, witness):
    argv = witness.argv("""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child(leave)
say("ready")
while True: signal.pause()
""")

    with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), *argv]) as worker:  # noqa: ASYNC220
        await witness.hears("ready")
        worker.kill()

    os.set_blocking(witness.fd, True)
    assert os.read(witness.fd, 1) == b""  # waits for the last of them


async def test_a_stranger_with_another_runs_mark_is_left_alone(bench, witness):
    with subprocess.Popen(["sleep", "60"], env={"RUNSTORE_RUN_MARK": "r:another"}) as stranger:  # noqa: ASYNC220
        await bench.run("true")

        assert stranger.poll() is None
        stranger.kill()
