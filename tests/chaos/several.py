"""The servers of a chaos run over Sentinels or a cluster: one primary at a time is killed, frozen or demoted."""

import random
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.topology.deployments import Clustered, Guarded, clustered, guarded
from tests.topology.servers import Server, programs
from tests.waiting import holds_soon

_WHOLE_S: Final = 60
_KEPT: Final = {"appendonly": "yes", "appendfsync": "always"}
"""Who is started again before anybody missed it must not be a primary that is empty."""


class Several:
    """Servers of one deployment. `pid` and `port` are nobody's: there are several."""

    pid = None

    def __init__(self, folder: Path, topology: str, seed: int) -> None:
        self._folder = folder
        self._make = {"sentinel": guarded, "cluster": clustered}[topology]
        self._chance = random.Random(seed)
        self._stack = ExitStack()
        self._made: Guarded | Clustered | None = None
        self._hurt: Server | None = None

    @property
    def made(self) -> Guarded | Clustered:
        assert self._made is not None
        return self._made

    @property
    def url(self) -> str:
        return self.made.url

    def start(self) -> None:
        """Start everything or, later, what was killed."""
        if self._made is None:
            self._made = self._stack.enter_context(self._make(programs()["wheel"], self._folder, **_KEPT))
        elif self._hurt is not None and self._hurt.process is None:
            self._hurt.begin()

    def ready(self) -> None:
        """Return when every server is there and follows whom it should."""
        holds_soon(self._is_whole, _WHOLE_S)

    def signal(self, number: int) -> None:
        """Freeze a primary, or thaw the one that was frozen."""
        if number == signal.SIGSTOP:
            self._hurt = self._a_primary()
            self._hurt.freeze()
        elif self._hurt is not None and self._hurt.process is not None:
            self._hurt.thaw()

    def kill(self) -> None:
        """Kill a primary."""
        self._hurt = self._a_primary()
        self._hurt.kill()

    def fail_over(self) -> None:
        """Demote a primary, which lives on, where there is one to take its place."""
        if not self._is_whole():
            return
        if isinstance(self.made, Guarded):
            self.made.fail_over()
        else:
            primary = self._a_primary()
            self.made.replica_of(primary).ask("CLUSTER", "FAILOVER")

    def close(self) -> None:
        """End everything."""
        self.signal(signal.SIGCONT)
        self._stack.close()

    def _a_primary(self) -> Server:
        if isinstance(self.made, Guarded):
            return self.made.primary
        return self._chance.choice(self.made.primaries())

    def _is_whole(self) -> bool:
        servers = self.made.servers
        if not all(server.process is not None and server.answers() for server in servers):
            return False
        told = [server.ask("INFO", "replication") for server in servers]
        followers = [each for each in told if each["role"] == "slave"]
        primaries = 1 if isinstance(self.made, Guarded) else 3
        return len(followers) == len(servers) - primaries and all(
            each["master_link_status"] == "up" for each in followers
        )
