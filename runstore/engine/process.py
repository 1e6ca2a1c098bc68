"""A server process, seen from its owner: launched through the watchdog, asked whether it is ready, stopped for sure."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from runstore.engine import folder as data_folder
from runstore.engine.address import Address
from runstore.engine.alive import at_end, until_end
from runstore.engine.config import EngineConfig
from runstore.engine.errors import PortTaken, ServerFailed
from runstore.engine.find import Program
from runstore.engine.ping import LOOPBACK, Answer, ask

_WATCHDOG = Path(__file__).resolve().with_name("watchdog.py")
_KEPT_ENVIRONMENT = ("PATH", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
_MARGIN_S = 2.0
_ASK_S = 1.0


class ServerProcess:
    """One server and the watchdog that holds it."""

    def __init__(self, program: Program, folder: Path, address: Address, lock: int, config: EngineConfig) -> None:
        self._folder = folder
        self._address = address
        self._config = config
        self._program = program
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._stopped = False
        self._watchdog = self._launch(lock)
        self._control, self._alive = (cast(IO[bytes], end) for end in (self._watchdog.stdin, self._watchdog.stdout))
        self.pid: int | None = None

    def wait_until_ready(self) -> None:
        """Return when the server has loaded its data and answers.

        Raises: PortTaken; ServerFailed. The process has gone then.
        """
        try:
            self._hand_over_configuration()
            self._read_pid()
            self._wait_for_pong()
        except BaseException:
            self.stop()
            raise

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Tell whether server and watchdog have gone, waiting so long for it."""
        return self._stopped or at_end(self._alive.fileno(), wait_s)

    async def until_ended(self) -> None:
        """Return when server and watchdog have gone, for whatever reason."""
        if not self._stopped:
            await until_end(self._alive.fileno())

    def stop(self) -> None:
        """Stop the server in order, by force after the grace, and return when it has gone. May be called again.

        A forked child that inherited the object stops nothing.
        """
        with self._guard:
            if self._stopped or os.getpid() != self._owner:
                return
            self._control.close()
            if not self.has_ended(self._config.stop_timeout_s + _MARGIN_S):
                self._kill()
            with suppress(subprocess.TimeoutExpired):
                self._watchdog.wait(_MARGIN_S)
            self._stopped = True
            self._alive.close()

    def _launch(self, lock: int) -> subprocess.Popen[bytes]:
        log = data_folder.open_log(self._folder)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _WATCHDOG, *self._arguments()],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,  # so the path itself is in no configuration line and may be any path
                env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for the owner, who stops us in order
            )
        except OSError as error:
            raise ServerFailed(f"the server's watchdog could not be started: {error}", "") from error
        finally:
            os.close(log)

    def _arguments(self) -> list[str]:
        length = len(self._configuration())
        return [str(os.getpid()), str(self._config.stop_timeout_s), str(length), str(self._program.path)]

    def _configuration(self) -> bytes:
        lines = (
            f"bind {LOOPBACK}",
            "protected-mode yes",
            f"port {self._address.port}",
            f"requirepass {self._address.password}",
            "daemonize no",
            'logfile ""',
            "dir .",
            'save ""',
            "appendonly yes",
            f"appendfsync {self._config.fsync}",
            "aof-use-rdb-preamble yes",
            "aof-load-truncated yes",
            "maxmemory-policy noeviction",
            "hz 50",  # SIGTERM is looked at once a tick: 20 ms until it stops, where the default takes 100
        )
        return "\n".join([*lines, ""]).encode()

    def _hand_over_configuration(self) -> None:
        with suppress(BrokenPipeError):  # the watchdog died at once; the log says why
            self._control.write(self._configuration())

    def _read_pid(self) -> None:
        line = b""
        while not line.endswith(b"\n"):
            if not self.has_ended(self._config.start_timeout_s):
                raise self._failure("the server's watchdog did not start in time")
            received = os.read(self._alive.fileno(), 32)
            if not received:
                raise self._failure("the server's watchdog did not start")
            line += received
        self.pid = int(line)

    def _wait_for_pong(self) -> None:
        deadline = time.monotonic() + self._config.start_timeout_s
        loading = False
        pause_s = 0.002
        while True:
            match ask(self._address.port, self._address.password, timeout_s=_ASK_S):
                case Answer.READY:
                    return
                case Answer.LOADING if not loading:
                    loading = True
                    deadline = time.monotonic() + self._config.load_timeout_s
                case _:
                    pass
            if self.has_ended(pause_s):
                raise self._failure(f"{self._program.path} did not start")
            if time.monotonic() > deadline:
                raise self._failure(f"{self._program.path} was not ready in time")
            pause_s = min(pause_s * 1.5, 0.05)

    def _failure(self, reason: str) -> ServerFailed:
        tail = data_folder.log_tail(self._folder)
        taken = "Address already in use" in tail
        return (PortTaken if taken else ServerFailed)(reason, tail)

    def _kill(self) -> None:
        """End what outlived the grace, also where the watchdog was killed and no one else would."""
        self._watchdog.kill()
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.has_ended(_MARGIN_S)
