"""Real servers of the tests' own, on loopback: primaries and replicas, killed, frozen and promoted at will."""

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from runstore.engine import EngineKind
from runstore.engine.find import find_programs
from tests.waiting import holds_soon

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def programs() -> dict[str, Path]:
    """Name each kind of server that this machine has: the one in the wheel, and one that is installed."""
    found: dict[str, Path] = {}
    for name, kind in (("wheel", EngineKind.WHEEL), ("installed", EngineKind.INSTALLED)):
        for program in find_programs(kind, None):
            found.setdefault(name, program.path)
    return found


def program_of(kind: str) -> Path:
    """Find the server of a kind, or skip the test."""
    found = programs()
    if kind not in found:
        pytest.skip(f"no server that is {kind} can be started on this machine")
    return found[kind]


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on, nor on those of their cluster buses."""
    ports: list[int] = []
    with ExitStack() as taken:
        while len(ports) < count:
            plain = taken.enter_context(socket.socket())
            plain.bind(("127.0.0.1", 0))
            port = plain.getsockname()[1]
            if port > 55_000:
                continue
            bus = taken.enter_context(socket.socket())
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            ports.append(port)
    return ports


class Server:
    """One server process."""

    def __init__(self, program: Path, folder: Path, port: int, *, is_sentinel: bool = False, **settings: Any) -> None:
        self.program = program
        self.folder = folder
        self.port = port
        self.settings = {"port": port, "bind": "127.0.0.1", "dir": folder, **settings}
        if not is_sentinel:
            self.settings |= {"save": "", "enable-debug-command": "yes"}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *arguments: str) -> "Server":
        self.begin(*arguments)
        holds_soon(self.answers)
        return self

    def begin(self, *arguments: str) -> None:
        """Start it, and do not wait for it to answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = [str(part) for name, value in self.settings.items() for part in (f"--{name}", value)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, *arguments, *options],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_us,  # noqa: PLW1509
            )

    @contextmanager
    def asked(self) -> Iterator[Any]:
        with redis.Redis(port=self.port, protocol=2, socket_timeout=5) as client:
            yield client

    def ask(self, *words: Any) -> Any:
        with self.asked() as client:
            return client.execute_command(*words)

    def answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def follow(self, primary: "Server") -> None:
        self.ask("REPLICAOF", "127.0.0.1", primary.port)
        holds_soon(lambda: self.ask("INFO", "replication").get("master_link_status") == "up")

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


def _die_with_us() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Pair:
    """A primary, its replica, and one more that is not begun yet."""

    def __init__(self, stack: ExitStack, primary: Server, replica: Server, spare: Server) -> None:
        self.primary = primary
        self.replica = replica
        self._stack = stack
        self._spare = spare

    def catch_up(self) -> None:
        """Wait until the replica has all that was written; WAIT would tell of its own connection's writes only."""
        written = self.primary.ask("INFO", "replication")["master_repl_offset"]
        holds_soon(lambda: self.replica.ask("INFO", "replication")["slave_repl_offset"] >= written)

    def part(self) -> None:
        """Let nothing that is written from now on reach the replica; a frozen one would find it in its socket."""
        self.replica.ask("REPLICAOF", "127.0.0.1", 1)

    def promote(self) -> None:
        """Kill the primary and make the replica one, with what it has."""
        self.primary.kill()
        self.replica.ask("REPLICAOF", "NO", "ONE")

    def replace(self) -> None:
        """Give the promoted replica one of its own."""
        held(self._stack, self._spare).follow(self.replica)


def held(stack: ExitStack, server: Server, *arguments: str) -> Server:
    """Start a server that ends with the stack."""
    stack.callback(server.kill)
    return server.start(*arguments)


@contextmanager
def pair(program: Path, folder: Path, **settings: Any) -> Iterator[Pair]:
    """Hold a primary with a replica that has caught up."""
    with ExitStack() as stack:
        told = {"repl-diskless-sync-delay": 0, **settings}
        made = [Server(program, folder / str(port), port, **told) for port in free_ports(3)]
        held(stack, made[0])
        held(stack, made[1]).follow(made[0])
        yield Pair(stack, *made)
