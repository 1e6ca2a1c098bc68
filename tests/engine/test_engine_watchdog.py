"""The watchdog alone, without an engine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_builders import is_alive, program

from runstore.engine import watchdog


@contextmanager
def _watch(server: Path, *, owner: int | None = None, grace_s: float = 20) -> Iterator["subprocess.Popen[bytes]"]:
    arguments = [str(os.getpid() if owner is None else owner), str(grace_s), "0", str(server)]
    watching = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, *arguments],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with watching:
        yield watching


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    return program(tmp_path / "server", version="7.2.0", body="exec sleep 50")


def test_an_end_that_comes_before_the_server_is_there_is_not_lost(sleeper: Path) -> None:
    with _watch(sleeper) as watching:
        pid, _ = watching.communicate(timeout=5)

    assert not is_alive(int(pid))


def test_an_owner_that_has_gone_before_us_is_noticed(sleeper: Path) -> None:
    with _watch(sleeper, owner=1) as watching:
        assert watching.stdout is not None
        pid = int(watching.stdout.read())

    assert not is_alive(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_by_a_signal_it_ends_the_server_first(sleeper: Path, number: signal.Signals) -> None:
    with _watch(sleeper) as watching:
        assert watching.stdout is not None
        pid = int(watching.stdout.readline())
        watching.send_signal(number)

        assert watching.wait(5) == 0
    assert not is_alive(pid)


def test_a_server_that_will_not_go_is_killed_with_its_children(tmp_path: Path) -> None:
    stubborn = program(tmp_path / "server", version="7.2.0", body="trap '' TERM; echo up >&2; sleep 50; sleep 50")
    with _watch(stubborn, grace_s=0.1) as watching:
        assert watching.stdin is not None
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stderr.readline()
        watching.stdin.close()

        # the end of the file comes only when the child that inherited it has gone as well
        pid = int(watching.stdout.read())
    assert not is_alive(pid)


def test_a_program_that_cannot_be_run_is_told_in_the_log(tmp_path: Path) -> None:
    with _watch(tmp_path / "nothing") as watching:
        assert watching.stderr is not None

        assert b"No such file" in watching.stderr.read()
