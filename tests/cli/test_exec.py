"""`runstore exec` around real commands, as cron, make, a CI job and somebody at a terminal start it."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.engine import EngineConfig, start
from runstore.projector import Projector
from runstore.publish import AsyncPublisher
from tests.cli.processes import environment
from tests.waiting import happens
from tests.worker.conftest import Repo, Witness

NOWHERE = "redis://127.0.0.1:1"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRAP = """
import os, signal, sys
heard = []
def hear(number, _):
    heard.append(signal.Signals(number).name)
    os.write(1, f"heard {' '.join(heard)}\\n".encode())
for name in "INT TERM HUP QUIT USR1 USR2 WINCH".split():
    signal.signal(getattr(signal, "SIG" + name), hear)
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)  # a signal that comes before the wait begins ends it all the same
os.write(1, b"ready\\n")
while sys.argv[1] not in heard[-1:]:
    os.read(woken, 64)
sys.exit(int(sys.argv[2]))
"""

UNWILLING = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child(leave)
child(lambda: (leave(), child(leave)))
say("ready")
while True: signal.pause()
"""


class Bench:
    """Runs commands with the store behind them, and looks their runs up."""

    def __init__(self, store: RedisStore, url: str, folder: Path, spool: Path) -> None:
        self.store = store
        self.url = url
        self.folder = folder
        told = {"RUNSTORE_REDIS_URL": url, "RUNSTORE_PROJECT": "forecasts", "RUNSTORE_SPOOL_DIR": str(spool)}
        self.env = environment(**told, TMPDIR=str(folder.parent))
        self.run_id = str(uuid4())
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, **how: Any):
        words = (sys.executable, "-m", "runstore.cli", "exec", *self._id(options), *options, "--", *command)
        pipes = {name: subprocess.PIPE for name in ("stdout", "stderr") if name not in how}
        given = {"stdin": subprocess.DEVNULL, "cwd": self.folder, "process_group": 0, **pipes, **how}
        process = subprocess.Popen(words, env=self.env | (env or {}), **given)
        self._started.append(process)
        return process

    def _id(self, options: tuple[str, ...]) -> tuple[str, ...]:
        return () if "--run-id" in options else ("--run-id", self.run_id)

    async def exec(self, *command: str, reads: bytes | None = None, **how: Any) -> tuple[int, bytes, bytes]:
        """Run a command to its end, and return its exit code and what it wrote."""
        if reads is not None:
            how["stdin"] = subprocess.PIPE
        process = self.start(*command, **how)
        out, err = await asyncio.to_thread(process.communicate, reads, 50)
        return process.returncode, out, err

    async def run(self) -> Run:
        await Projector(self.store).drain()
        (record,) = await self.store.runs.get_many([RunId(self.run_id)])
        assert record is not None
        return record.run

    async def output(self) -> dict[str, Any]:
        run = await self.run()
        assert run.output is not None
        parts = [part async for part in self.store.outputs.read(run.run_id, run.output, 0, run.output.output_bytes)]
        return msgspec.json.decode(b"".join(parts))

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def bench(real_store: RedisStore, redis_url: str, tmp_path: Path, spool_dir: Path) -> Iterator[Bench]:
    folder = tmp_path / "here"
    folder.mkdir()
    made = Bench(real_store, redis_url, folder, spool_dir)
    yield made
    made.close()


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    made = Witness(tmp_path / "witness")
    yield made
    os.close(made.fd)


async def line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).decode().rstrip("\n")


def state_of(pid: int) -> str:
    """Return a process's state as /proc tells it: R, S, T (stopped), Z; empty where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


async def test_a_command_that_exits_with_0_succeeds_and_what_it_wrote_is_passed_on_and_kept(bench: Bench) -> None:
    code, out, err = await bench.exec("sh", "-c", r"printf 'a\000\377\r\n'; echo err >&2")

    assert (code, out) == (0, b"a\0\xff\r\n")
    assert err == f"err\nrun {bench.run_id[:8]} success\n".encode()
    assert (await bench.run()).status is Status.SUCCESS
    assert await bench.output() == {
        "status": "success",
        "exit_code": 0,
        "stdout": "a\0�\r\n",
        "stderr": "err\n",
        "outputs": {},
    }
    assert list(bench.folder.parent.glob("runstore-exec-*")) == []


async def test_a_command_that_exits_otherwise_fails_and_its_exit_code_is_returned(bench: Bench) -> None:
    code, _, err = await bench.exec("sh", "-c", "exit 3")

    run = await bench.run()
    assert (code, run.status, run.error_message) == (3, Status.FAILED, "exit code 3")
    assert err == f"run {bench.run_id[:8]} failed: exit code 3\n".encode()
    assert (await bench.output())["exit_code"] == 3


async def test_nothing_is_said_where_quiet_is_asked_for(bench: Bench) -> None:
    assert await bench.exec("sh", "-c", "exit 3", options=("--quiet",)) == (3, b"", b"")


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("./plain", 126), ("./folder", 126)])
async def test_what_cannot_be_executed_fails_with_the_codes_of_a_shell(bench: Bench, command: str, code: int) -> None:
    (bench.folder / "plain").write_text("text\n")
    (bench.folder / "folder").mkdir()

    assert (await bench.exec(command))[0] == code

    run = await bench.run()
    assert run.status is Status.FAILED
    assert (run.error_message or "").startswith(f"cannot start '{command}': ")


async def test_a_command_that_a_signal_ended_fails_with_128_and_its_number(bench: Bench) -> None:
    assert (await bench.exec("sh", "-c", "kill -KILL $$"))[0] == 137

    assert (await bench.run()).error_message == "killed by SIGKILL"


async def test_the_outputs_are_what_the_command_wrote_to_their_file(bench: Bench) -> None:
    code, _, _ = await bench.exec("sh", "-c", """echo '{"revenue": [100, 110]}' > "$RUNSTORE_OUTPUTS" """)

    assert code == 0
    assert (await bench.output())["outputs"] == {"revenue": [100, 110]}


async def test_outputs_that_cannot_be_read_fail_the_run_and_not_the_command(bench: Bench) -> None:
    code, _, _ = await bench.exec("sh", "-c", 'echo [1] > "$RUNSTORE_OUTPUTS"')

    assert code == 0
    assert (await bench.run()).error_message == "RUNSTORE_OUTPUTS must be a JSON object, a name for each output"


async def test_the_command_has_our_stdin_environment_folder_and_descriptors(bench: Bench) -> None:
    read, write = os.pipe()
    os.write(write, b"by descriptor\n")
    os.close(write)
    script = f'cat; echo "$MINE" "$RUNSTORE_RUN_ID"; pwd; cat /dev/fd/{read}'

    _, out, _ = await bench.exec("sh", "-c", script, reads=b"in\n", env={"MINE": "mine"}, pass_fds=(read,))

    os.close(read)
    assert out.decode().splitlines() == ["in", f"mine {bench.run_id}", str(bench.folder), "by descriptor"]


async def test_the_words_behind_the_dashes_are_the_commands_alone(bench: Bench) -> None:
    _, out, _ = await bench.exec("printf", "[%s]", "--", "--help", "", "--quiet", "-x")

    assert out == b"[--][--help][][--quiet][-x]"


@pytest.mark.parametrize("given", ["flag", "variable"])
async def test_a_trace_comes_to_the_command_and_goes_with_the_run(bench: Bench, given: str) -> None:
    told = {"options": ("--traceparent", TRACEPARENT)} if given == "flag" else {"env": {"TRACEPARENT": TRACEPARENT}}

    _, out, _ = await bench.exec("sh", "-c", 'echo "$TRACEPARENT"', **told)

    assert out.decode().strip() == TRACEPARENT
    assert (await bench.run()).traceparent == TRACEPARENT


async def test_the_commit_is_the_head_of_the_repository_here_unless_told(bench: Bench, tmp_path: Path) -> None:
    sha = Repo(tmp_path / "repo").commit(model="1")
    (tmp_path / "repo" / "deep").mkdir()

    await bench.exec("true", cwd=tmp_path / "repo" / "deep", options=("--tag", "nightly", "--tag", "ci"))
    run = await bench.run()
    bench.run_id = str(uuid4())
    await bench.exec("true", cwd=tmp_path / "repo", options=("--commit-sha", ""))

    assert (run.commit_sha, run.tags) == (sha, ("nightly", "ci"))
    assert (await bench.run()).commit_sha is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--run-id", "x"), "run id"),
        (("--timeout-s", "0"), "--timeout-s"),
        (("--traceparent", "x"), "--traceparent"),
        (("--tag", ""), "tag"),
        (("--project", "a b"), "project name"),
        (("--data-dir", "nowhere"), "nowhere"),
    ],
)
async def test_what_cannot_be_told_is_refused_before_anything_runs(
    bench: Bench, options: tuple[str, ...], sentence: str
) -> None:
    code, _, err = await bench.exec("touch", "ran", options=options)

    assert code in {2, 5}
    assert sentence in err.decode()
    assert not (bench.folder / "ran").exists()


@pytest.mark.parametrize("name", ["USR1", "USR2", "WINCH"])
async def test_a_signal_for_the_command_is_passed_on(bench: Bench, name: str) -> None:
    process = bench.start(sys.executable, "-c", TRAP, f"SIG{name}", "0")
    assert await line(process) == "ready"

    process.send_signal(getattr(signal, f"SIG{name}"))

    assert await line(process) == f"heard SIG{name}"
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert (await bench.run()).status is Status.SUCCESS


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
async def test_a_command_that_is_asked_to_end_and_does_is_cancelled(bench: Bench, name: str) -> None:
    process = bench.start(sys.executable, "-c", TRAP, f"SIG{name}", "7")
    assert await line(process) == "ready"

    process.send_signal(getattr(signal, f"SIG{name}"))

    assert await line(process) == f"heard SIG{name}"
    assert await asyncio.to_thread(process.wait, 30) == 7
    run = await bench.run()
    assert (run.status, run.error_message) == (Status.CANCELLED, f"cancelled by SIG{name}")


async def test_a_command_whose_run_is_cancelled_is_ended_by_the_next_heartbeat(bench: Bench) -> None:
    process = bench.start(sys.executable, "-c", TRAP, "SIGTERM", "0")
    assert await line(process) == "ready"
    async with Projector(bench.store), AsyncPublisher(bench.url, "forecasts") as publisher:
        await happens(functools.partial(is_held, bench))

        await publisher.publish(bench.run_id, "cancelled", error_message="cancelled on request")
        out, err = await asyncio.to_thread(process.communicate, None, 50)

    assert (process.returncode, out) == (128 + signal.SIGTERM, b"heard SIGTERM\n")
    assert err == f"run {bench.run_id[:8]} cancelled: cancelled on request\n".encode()
    assert (await bench.run()).status is Status.CANCELLED


async def is_held(bench: Bench) -> bool:
    return any([await bench.store.client.zcard(keys.leases) for keys in bench.store.meta.keys])


async def test_a_command_that_dies_of_the_signal_is_cancelled_with_128_and_its_number(bench: Bench) -> None:
    process = bench.start("sh", "-c", "echo ready; exec sleep 100")
    assert await line(process) == "ready"

    process.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(process.wait, 30) == 143
    assert (await bench.run()).error_message == "cancelled by SIGTERM"


async def test_a_command_that_ends_well_when_asked_to_has_succeeded(bench: Bench) -> None:
    process = bench.start(sys.executable, "-c", TRAP, "SIGTERM", "0")
    assert await line(process) == "ready"

    process.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(process.wait, 30) == 0
    assert (await bench.run()).status is Status.SUCCESS


async def test_a_signal_that_was_ignored_when_it_began_is_not_passed_on(bench: Bench) -> None:
    """As nohup, and a shell's background, have it."""
    command = (sys.executable, "-c", TRAP, "SIGUSR1", "0")
    process = bench.start(*command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert await line(process) == "ready"

    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)

    assert await line(process) == "heard SIGUSR1"


async def test_a_command_past_its_time_is_ended_with_all_that_it_began(bench: Bench) -> None:
    process = bench.start("sh", "-c", "setsid sleep 100 & echo $!; wait", options=("--timeout-s", "1"))
    child = int(await line(process))

    assert await asyncio.to_thread(process.wait, 30) == 124

    run = await bench.run()
    assert (run.status, run.error_message) == (Status.TIMED_OUT, "no end within 1 s")
    assert state_of(child) == ""


async def test_what_a_command_leaves_running_is_left_running_and_not_waited_for(bench: Bench) -> None:
    process = bench.start("sh", "-c", "sleep 100 & echo $!")
    child = int(await line(process))

    assert await asyncio.to_thread(process.wait, 30) == 0

    assert state_of(child) in {"S", "R", "D"}
    os.kill(child, signal.SIGKILL)


async def test_a_command_ends_with_the_one_that_wraps_it(bench: Bench) -> None:
    process = bench.start("sh", "-c", "echo $$; exec sleep 100")
    child = int(await line(process))

    process.kill()

    await happens(lambda: state_of(child) == "")


async def test_a_wrapper_that_is_killed_leaves_nobody_of_its_command(bench: Bench, witness: Witness) -> None:
    process = bench.start(*witness.argv(UNWILLING))
    await witness.hears("ready")

    process.kill()

    os.set_blocking(witness.fd, True)
    assert await asyncio.to_thread(os.read, witness.fd, 1) == b""  # waits for the last of them


async def test_a_reader_that_leaves_is_gone_for_the_command_too(bench: Bench) -> None:
    process = bench.start("yes")
    assert await line(process) == "y"

    assert process.stdout is not None
    process.stdout.close()

    assert await asyncio.to_thread(process.wait, 30) == 128 + signal.SIGPIPE
    assert (await bench.run()).error_message == "killed by SIGPIPE"


async def test_much_is_passed_on_whole_and_its_end_is_kept(bench: Bench) -> None:
    code, out, _ = await bench.exec("sh", "-c", "yes forecast | head -c 50000000; echo end")

    assert (code, len(out)) == (0, 50_000_004)
    kept = (await bench.output())["stdout"]
    assert len(kept) == 4 * 1024 * 1024
    assert kept.endswith("end\n")


async def test_ctrl_z_stops_both_without_the_run_being_lost_and_both_go_on(bench: Bench) -> None:
    process = bench.start("sh", "-c", "echo $$; read -r word; echo $word", stdin=subprocess.PIPE)
    child = int(await line(process))

    async def leases() -> int:
        return sum([await bench.store.client.zcard(keys.leases) for keys in bench.store.meta.keys])

    await happens(leases)

    process.send_signal(signal.SIGTSTP)

    _, status = await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    await happens(lambda: state_of(child) == "T")
    assert await leases() == 0

    process.send_signal(signal.SIGCONT)
    await happens(leases)
    assert process.stdin is not None
    process.stdin.write(b"on\n")
    process.stdin.flush()
    assert await line(process) == "on"
    assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.fixture
async def terminal() -> AsyncIterator[tuple[int, int]]:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    yield ours, theirs
    for fd in (ours, theirs):
        os.close(fd)


async def until(fd: int, *texts: bytes) -> bytes:
    """Read what a terminal shows until it has shown some texts."""
    shown = b""
    while not all(text in shown for text in texts):
        shown += await asyncio.to_thread(os.read, fd, 4096)
    return shown


async def test_a_terminal_of_ours_is_a_terminal_for_the_command(bench: Bench, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    code = """
import os, signal, sys
def tell(*_):
    print(*map(os.isatty, (0, 1, 2)), *os.get_terminal_size(1))
signal.signal(signal.SIGWINCH, tell)
tell()
print("on stderr", file=sys.stderr)
signal.pause()
"""
    process = bench.start(sys.executable, "-c", code, stdin=theirs, stdout=theirs, stderr=theirs)
    shown = await until(ours, b"80 24\r\n", b"on stderr\r\n")
    assert b"False True True 80 24\r\n" in shown  # its stdin is another job's terminal, and is not read

    termios.tcsetwinsize(theirs, (30, 100))
    process.send_signal(signal.SIGWINCH)  # as the kernel does for the job in the foreground

    assert b"False True True 100 30\r\n" in await until(ours, b"100 30")
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert (await bench.output())["stdout"] == "False True True 80 24\nFalse True True 100 30\n"
    assert (await bench.output())["stderr"] == "on stderr\n"


async def test_ctrl_c_at_a_terminal_comes_to_the_command_once(bench: Bench, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))

    command = (sys.executable, "-c", TRAP, "SIGUSR1", "0")
    how = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "process_group": None, "preexec_fn": take_terminal}
    process = bench.start(*command, **how)
    await until(ours, b"ready")

    os.write(ours, b"\x03")
    await until(ours, b"heard SIGINT\r\n")
    process.send_signal(signal.SIGUSR1)

    assert b"heard SIGINT SIGUSR1\r\n" in await until(ours, b"SIGUSR1\r\n")
    assert await asyncio.to_thread(process.wait, 30) == 0


async def test_while_the_store_is_away_the_command_runs_and_its_end_is_told_later(tmp_path: Path, spool_dir: Path):
    data = EngineConfig(data_dir=tmp_path / "store")
    with start(data) as engine:
        url = engine.redis_url
    here = tmp_path / "here"
    here.mkdir()
    bench = Bench(None, url, here, spool_dir)  # type: ignore[arg-type]

    code, out, err = await bench.exec("sh", "-c", "echo done; exit 3")

    assert (code, out) == (3, b"done\n")
    assert err.decode().count("\n") == 1
    assert "failed: exit code 3; the store is away" in err.decode()
    with start(data) as engine:
        async with RedisStore.open(engine.redis_url) as bench.store:
            async with AsyncPublisher(url) as publisher:
                assert await publisher.deliver_abandoned()
            assert (await bench.run()).error_message == "exit code 3"
            assert (await bench.output())["stdout"] == "done\n"


@pytest.mark.slow
async def test_an_end_that_nothing_can_keep_is_told_on_stderr(tmp_path: Path, spool_dir: Path) -> None:
    spool_dir.parent.mkdir(parents=True)
    spool_dir.write_text("no folder")
    bench = Bench(None, NOWHERE, tmp_path, spool_dir)  # type: ignore[arg-type]

    code, out, err = await bench.exec("echo", "done", options=("--quiet",))

    assert (code, out) == (0, b"done\n")
    assert b"success; the store is away, the spool cannot be written, and nobody hears of it" in err
