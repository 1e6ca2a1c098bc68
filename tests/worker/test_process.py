"""Running one command: its end as a value, and its output."""

import asyncio
import os
import resource
import signal

import pytest

from runstore_worker.process import Cancelled, Exited, NotStarted, Signalled, TimedOut


async def test_an_exit_code_is_told_as_it_is(bench):
    outcome = await bench.run("sh", "-c", "exit 7")

    assert outcome == Exited(code=7)


async def test_a_command_ended_by_a_signal_tells_which(bench):
    outcome = await bench.run("sh", "-c", "kill -TERM $$")

    assert outcome == Signalled(signal=signal.SIGTERM)


async def test_both_streams_arrive_whole_and_apart(bench):
    await bench.run("sh", "-c", "echo out; echo err >&2; printf more")

    assert bench.said("stdout") == b"out\nmore"
    assert bench.said("stderr") == b"err\n"


async def test_a_command_that_does_not_exist_is_not_started_and_says_so(bench):
    outcome = await bench.run("no-such-command", "--now", env={"PATH": "/usr/bin:/bin"})

    assert outcome == NotStarted(reason="cannot start 'no-such-command --now': No such file or directory")


@pytest.mark.parametrize("changes", [{"cwd": "/nowhere"}, {"argv": ()}, {"argv": ("a\0b",)}, {"env": {"A": "\0"}}])
async def test_what_cannot_be_started_is_a_value(bench, changes):
    outcome = await bench.run("true", **changes)

    assert isinstance(outcome, NotStarted)
    assert "\n" not in outcome.reason


async def test_nothing_starts_when_cancelled_before(bench):
    bench.cancel.set()

    assert await bench.run("sh", "-c", "echo hi") == Cancelled()
    assert bench.chunks == []


async def test_a_run_past_its_time_has_timed_out(bench, witness):
    outcome = await bench.run(*witness.argv("signal.pause()"), timeout_s=0.3)

    assert outcome == TimedOut()
    assert witness.everybody_is_gone()


async def test_a_cancelled_command_may_end_in_order(bench, witness):
    argv = witness.argv("""
def end(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
say("ready")
while True: time.sleep(0.05)  # unlike pause(), no signal comes too early for it
""")

    running = asyncio.create_task(bench.run(*argv))
    await witness.hears("ready")
    bench.cancel.set()

    assert await running == Cancelled()
    assert bench.said("stdout") == b"saved\n"


async def test_the_group_may_use_the_grace_though_its_leader_ended_at_once(bench, witness):
    argv = witness.argv("""
def end(*_):
    print("saved", flush=True)
    os._exit(0)
child(lambda: signal.signal(signal.SIGTERM, end))
say("ready")
while True: time.sleep(0.05)  # unlike pause(), no signal comes too early for it
""")

    running = asyncio.create_task(bench.run(*argv))
    await witness.hears("ready")
    bench.cancel.set()

    assert await running == Cancelled()
    assert bench.said("stdout") == b"saved\n"


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(bench, witness):
    argv = witness.argv("""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child(lambda: None)
say("ready")
while True: time.sleep(0.05)  # unlike pause(), no signal comes too early for it
""")

    running = asyncio.create_task(bench.run(*argv, grace_s=0.2))
    await witness.hears("ready")
    bench.cancel.set()

    assert await running == Cancelled()
    assert witness.everybody_is_gone()


async def test_a_command_that_ended_before_it_was_told_keeps_its_own_end(bench):
    async def cancel_late(stream, chunk):
        bench.cancel.set()

    outcome = await bench.run("sh", "-c", "echo last words", on_chunk=cancel_late)

    assert outcome in {Exited(code=0), Cancelled()}  # either, by what the shim saw first; never anything else


async def test_cancelling_the_task_kills_at_once(bench, witness):
    argv = witness.argv("""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("ready")
while True: time.sleep(0.05)  # unlike pause(), no signal comes too early for it
""")

    running = asyncio.create_task(bench.run(*argv, grace_s=1000))
    await witness.hears("ready")
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert witness.everybody_is_gone()


async def test_a_callback_that_raises_ends_the_run_and_is_heard(bench, witness):
    async def fail(stream, chunk):
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        await bench.run(*witness.argv("print('x', flush=True); signal.pause()"), on_chunk=fail)

    assert caught.group_contains(LookupError)
    assert witness.everybody_is_gone()


async def test_a_slow_callback_holds_the_command_back(bench):
    full = asyncio.Event()

    async def slow(stream, chunk):
        await bench.keep(stream, chunk)
        if stream == "stderr":
            full.set()
        await full.wait()

    await bench.run_python(
        """
import os
os.set_blocking(1, False)
sent = misses = 0
while misses < 2000 and sent < 50_000_000:
    try:
        sent += os.write(1, b"x" * 65536)
        misses = 0
    except BlockingIOError:
        misses += 1
os.write(2, str(sent).encode())
""",
        on_chunk=slow,
    )

    assert int(bench.said("stderr")) < 2_000_000
    assert len(bench.said("stdout")) == int(bench.said("stderr"))


async def test_a_hundred_megabytes_fill_neither_memory_nor_disk(bench):
    seen = 0

    async def count(stream, chunk):
        nonlocal seen
        assert len(chunk) <= 65536
        seen += len(chunk)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = "import sys\nfor n in range(1600): sys.stdout.buffer.write(b'%08d' % n * 8192)"
    outcome = await bench.run_python(code, on_chunk=count, keep_bytes=1_000_000)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert outcome == Exited(code=0)
    assert seen == 1600 * 65536
    assert (bench.folder / "stdout").stat().st_size == 1_000_000
    assert len(bench.kept) == 1_000_000
    assert bench.kept.endswith(b"00001599" * 8192)
    assert grown_kb < 20_000


async def test_a_command_has_a_group_of_its_own_and_an_empty_stdin(bench):
    await bench.run_python("import os, sys; print(os.getpgrp() == os.getpid(), os.getsid(0), sys.stdin.read() == '')")

    is_leader, session, is_empty = bench.said("stdout").split()
    assert (is_leader, is_empty) == (b"True", b"True")
    assert int(session) != os.getsid(0)


async def test_a_command_inherits_usual_signals_and_no_descriptors(bench):
    await bench.run_python(
        "import os, signal\n"
        "print(os.listdir('/proc/self/fd'))\n"
        "print([s.name for s in signal.valid_signals() if isinstance(s, signal.Signals)"
        " and signal.getsignal(s) is signal.SIG_IGN], signal.pthread_sigmask(0, []))",
        env={"PATH": os.environ["PATH"]},
    )

    descriptors, signals = bench.said("stdout").decode().splitlines()
    assert descriptors == "['0', '1', '2', '3']"  # the last is the listing's own
    assert signals == "['SIGPIPE', 'SIGXFSZ'] set()"  # Python's own doing


async def test_a_relative_program_is_found_in_the_working_folder(bench):
    script = bench.folder / "run.sh"
    script.write_text("#!/bin/sh\nexit 5\n")
    script.chmod(0o755)

    assert await bench.run("./run.sh") == Exited(code=5)


async def test_many_runs_at_once_keep_their_ends_apart(bench):
    async def one(code: int):
        folder = bench.folder / str(code)
        folder.mkdir()
        return await type(bench)(folder).run("sh", "-c", f"exit {code}")

    outcomes = await asyncio.gather(*(one(code) for code in range(8)))

    assert outcomes == [Exited(code=code) for code in range(8)]


async def test_a_run_leaves_no_descriptor_open_in_the_worker(bench):
    await bench.run("true")
    (bench.folder / "stdout").unlink()
    (bench.folder / "stderr").unlink()
    before = len(os.listdir("/proc/self/fd"))

    await bench.run("no-such-command")

    assert len(os.listdir("/proc/self/fd")) == before
