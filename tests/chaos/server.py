"""The Redis of a chaos run: a process on a fixed port, to be killed, frozen and started again over its data."""

import os
import random
import secrets
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import redis

from runstore.engine.config import EngineKind
from runstore.engine.find import find_programs
from tests.chaos.power import Power
from tests.chaos.processes import die_with_parent

READY_S: Final = 60.0


def free_port() -> int:
    """Return a port that is free now, and that the system gives to no outgoing connection while its owner is away."""
    while True:
        port = random.randrange(12_000, 32_000)
        with suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port


class Server:
    """One server over one folder. `power` is the machine that it stands on."""

    def __init__(self, folder: Path, power: Power, *, fsync: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self.fsync = fsync
        self.key_load_delay_us = 0
        self._power = power
        self._process: subprocess.Popen[bytes] | None = None
        self._program = next(find_programs(EngineKind.WHEEL, None)).path

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it over what is in the folder; it answers some time later."""
        config = self.folder.parent / "redis.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndir {self.folder}\n"
            f'save ""\nappendonly yes\nappendfsync {self.fsync}\naof-load-truncated yes\nmaxmemory-policy noeviction\n'
            f"key-load-delay {self.key_load_delay_us}\nloading-process-events-interval-bytes 1024\n"
            "auto-aof-rewrite-min-size 8mb\nenable-debug-command yes\nhz 50\n"
        )
        with (self.folder.parent / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, config],
                env={"PATH": os.environ["PATH"], **self._power.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call, and no lock is taken
            )

    def ready(self) -> None:
        """Return when it answers. Raises: TimeoutError."""
        deadline = time.monotonic() + READY_S
        while True:
            with suppress(redis.RedisError, OSError), self.client() as client:
                client.ping()
                return
            assert self.pid is not None, f"the server ended: see {self.folder.parent}/redis.log"
            if time.monotonic() > deadline:
                raise TimeoutError("the server does not answer")
            time.sleep(0.01)  # nothing tells when it does

    def client(self) -> "redis.Redis":
        """Make a client that waits for nothing."""
        return redis.Redis(port=self.port, password=self.password, socket_timeout=5, protocol=2)

    def signal(self, number: int) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and return when it has gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """End it, frozen or not."""
        self.signal(signal.SIGCONT)
        self.kill()

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        return self._process.wait(timeout=20)
