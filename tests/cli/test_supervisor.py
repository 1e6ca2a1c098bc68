"""What a service tells whoever started it, over a real socket."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstore.cli.supervisor import beat_every_s, tell
from tests.cli.processes import PATIENT, started
from tests.waiting import holds_soon


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(30)
        yield bound


def test_a_state_arrives(heard: socket.socket) -> None:
    assert tell("READY=1", {"NOTIFY_SOCKET": heard.getsockname()})

    assert heard.recv(100) == b"READY=1"


def test_a_state_arrives_at_an_abstract_address() -> None:
    name = f"runstore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0{name}")

        assert tell("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert bound.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nobody/is/here", "@nobody-is-here"])
def test_nobody_that_listens_is_no_trouble(address: str) -> None:
    assert not tell("READY=1", {"NOTIFY_SOCKET": address})


def test_a_supervisor_that_reads_nothing_holds_nobody_up(heard: socket.socket) -> None:
    to = {"NOTIFY_SOCKET": heard.getsockname()}

    while tell("WATCHDOG=1", to):
        pass


@pytest.mark.parametrize(
    ("told", "every_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
def test_a_beat_comes_three_times_in_the_time_that_was_given(told: dict[str, str], every_s: float | None) -> None:
    assert beat_every_s(told) == every_s


@PATIENT
@pytest.mark.parametrize("role", ["gateway", "gateway --processes 2", "projector", "worker"])
def test_a_service_says_that_it_is_ready_alive_and_stopping(
    role: str, heard: socket.socket, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "runstore.toml").write_text('[projects.p]\nrepository = "."\ncommand = ["true"]\n')
    words = [*role.split(), "--redis-url", redis_url, *(["--port", "0"] if "gateway" in role else [])]
    watchdog = {"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "60000"}

    states: list[bytes] = []
    listener = threading.Thread(target=listen, args=(heard, states), daemon=True)
    listener.start()
    with started(*words, folder=tmp_path, **watchdog) as service:
        holds_soon(lambda: b"WATCHDOG=1" in states and any(state.startswith(b"READY=1") for state in states))
        service.end()
    tell("the end", watchdog)
    listener.join(30)

    assert sum(state.startswith(b"READY=1\nSTATUS=") for state in states) == 1
    assert {state for state in states if not state.startswith(b"READY=1")} == {b"WATCHDOG=1", b"STOPPING=1"}


def listen(heard: socket.socket, states: list[bytes]) -> None:
    while (state := heard.recv(300)) != b"the end":
        states.append(state)
