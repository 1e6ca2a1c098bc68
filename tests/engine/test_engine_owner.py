"""What becomes of the server when its owner ends in this way or that."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from engine_builders import Launch, connect, is_free

from runstore.engine.errors import DataFolderInUse

_OWNER = """
import os, signal, sys, threading
from pathlib import Path
from runstore.engine import EngineConfig, start

engines = []
config = EngineConfig(data_dir=Path(sys.argv[1]), search_path="", stop_timeout_s=1)
thread = threading.Thread(target=lambda: engines.append(start(config)))
thread.start()
thread.join()
(engine,) = engines
"""
_WAIT = "print(engine.redis_url, flush=True); signal.pause()"

Own = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def own(folder: Path) -> Iterator[Own]:
    """Run a process that starts an engine, in a thread that ends, and goes on as the text says."""
    owners: list[subprocess.Popen[str]] = []

    def build(then: str) -> "subprocess.Popen[str]":
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER + then, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        owners.append(owner)
        return owner

    yield build
    for owner in owners:
        with suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        owner.wait()
        if owner.stdout is not None:
            owner.stdout.close()


def _line(owner: "subprocess.Popen[str]") -> str:
    assert owner.stdout is not None
    return owner.stdout.readline().strip()


def test_an_owner_killed_outright_leaves_a_folder_that_the_next_start_takes_at_once(own: Own, launch: Launch) -> None:
    owner = own(_WAIT)
    connect(_line(owner)).xadd("log", {"n": "1"})
    owner.kill()
    owner.wait()

    began = time.monotonic()
    engine = launch()

    assert connect(engine).xlen("log") == 1
    assert time.monotonic() - began < 2


def test_the_server_goes_with_its_owner_though_a_forked_child_lives_on(own: Own, launch: Launch) -> None:
    owner = own("os.fork() or signal.pause()\n" + _WAIT)
    _line(owner)
    owner.kill()
    owner.wait()

    assert not launch().has_ended()


def test_a_forked_child_that_ends_does_not_take_the_server_along(own: Own) -> None:
    owner = own("child = os.fork()\nif not child: engine.stop(); sys.exit()\nos.waitpid(child, 0)\n" + _WAIT)

    assert connect(_line(owner)).ping()


def test_an_owner_that_forgets_to_stop_leaves_nothing(own: Own, launch: Launch) -> None:
    own("").wait()

    assert not launch().has_ended()


def test_ctrl_c_reaches_the_owner_alone_who_still_has_the_server_to_stop(own: Own, folder: Path) -> None:
    owner = own(
        "try:\n    print('ready', flush=True); signal.pause()\n"
        "except KeyboardInterrupt:\n    print(engine.has_ended(0.2)); engine.stop(); print(engine.has_ended())\n"
    )
    _line(owner)

    os.killpg(owner.pid, signal.SIGINT)

    assert owner.communicate()[0].split() == ["False", "True"]
    assert is_free(folder)


def test_an_owner_killed_while_it_starts_leaves_nothing(own: Own, folder: Path, launch: Launch) -> None:
    owner = own(_WAIT)
    while not (folder / "engine.log").exists():
        time.sleep(0.001)
    owner.kill()
    owner.wait()

    assert not launch().has_ended()


def test_a_living_owner_is_not_waited_for(own: Own, launch: Launch) -> None:
    owner = own(_WAIT)
    _line(owner)

    began = time.monotonic()
    with pytest.raises(DataFolderInUse, match=f"process {owner.pid} "):
        launch()

    assert time.monotonic() - began < 1


def test_a_dead_owner_whose_server_stays_is_waited_for_within_bounds(folder: Path, launch: Launch) -> None:
    launch()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (folder / "lock").write_text(f"{dead.pid}\n")

    with pytest.raises(DataFolderInUse, match=f"process {dead.pid} "):
        launch(lock_patience_s=0.1)
