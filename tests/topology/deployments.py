"""Deployments of several servers: a cluster of three primaries with replicas, and a primary that Sentinels watch."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.topology.servers import Server, free_ports, held
from tests.waiting import holds_soon

SERVICE = "runs"
_NODE_TIMEOUT_MS = 1_500
_DOWN_AFTER_MS = 1_000
_REPLICATION = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1}


class Guarded:
    """A primary, two replicas and three Sentinels."""

    def __init__(self, servers: list[Server], sentinels: list[Server]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}"

    @property
    def primary(self) -> Server:
        told = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(told[1]))

    def empty(self) -> None:
        self.primary.ask("FLUSHALL")

    def fail_over(self) -> None:
        """Let the Sentinels demote the primary, which lives on."""
        before = self.primary
        holds_soon(lambda: _was_taken(self.sentinels[0], "SENTINEL", "FAILOVER", SERVICE))
        holds_soon(lambda: self.primary is not before, 40)


class Clustered:
    """Three primaries and a replica of each."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(server.address for server in self.servers[:3])}"

    def primaries(self) -> list[Server]:
        """Return the servers that hold slots."""
        ports = {int(primary[1]) for _, _, primary, *_ in self._slots()}
        return [server for server in self.servers if server.port in ports]

    def holder(self, slot: int) -> Server:
        [port] = [int(primary[1]) for first, last, primary, *_ in self._slots() if first <= slot <= last]
        return next(server for server in self.servers if server.port == port)

    def replica_of(self, primary: Server) -> Server:
        for server in self.servers:
            if server.answers() and server.ask("INFO", "replication").get("master_port") == primary.port:
                return server
        raise AssertionError(f"{primary.port} has no replica")

    def empty(self) -> None:
        for server in self.primaries():
            server.ask("FLUSHALL")

    def is_whole(self) -> bool:
        living = [server for server in self.servers if server.process is not None]
        return all(_ask(server, "CLUSTER", "INFO").get("cluster_state") == "ok" for server in living)

    def move(self, slot: int, to: Server) -> None:
        """Move one slot, key by key, as `redis-cli --cluster reshard` does."""
        source = self.holder(slot)
        here, there = (_text(server.ask("CLUSTER", "MYID")) for server in (source, to))
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        while names := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *names)
        for server in (to, source, *self.primaries()):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", there)

    def move_at_once(self, slot: int, to: Server) -> None:
        """Move one slot in one step, as Valkey 9 does."""
        source, there = self.holder(slot), _text(to.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", there)
        holds_soon(lambda: self.holder(slot) is to)

    def _slots(self) -> Any:
        for server in self.servers:
            if server.process is not None and server.answers():
                return server.ask("CLUSTER", "SLOTS")
        raise AssertionError("no server of the cluster answers")


@contextmanager
def guarded(program: Path, folder: Path, **settings: Any) -> Iterator[Guarded]:
    """Hold a primary with two replicas under three Sentinels."""
    with ExitStack() as stack:
        ports = free_ports(6)
        servers = [Server(program, folder / str(port), port, **_REPLICATION, **settings) for port in ports[:3]]
        for server in servers:
            held(stack, server)
        for replica in servers[1:]:
            replica.follow(servers[0])
        sentinels = [_sentinel(stack, program, folder, port, servers[0]) for port in ports[3:]]
        for sentinel in sentinels:
            holds_soon(lambda: _knows_all(sentinel))  # noqa: B023 - it is waited for here
        yield Guarded(servers, sentinels)


@contextmanager
def clustered(program: Path, folder: Path, **settings: Any) -> Iterator[Clustered]:
    """Hold a cluster of three primaries with a replica each."""
    with ExitStack() as stack:
        told = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": _NODE_TIMEOUT_MS,
            "cluster-replica-validity-factor": 0,
            **_REPLICATION,
            **settings,
        }
        servers = [Server(program, folder / str(port), port, **told) for port in free_ports(6)]
        for server in servers:
            held(stack, server)
        cluster = Clustered(servers)
        for number, server in enumerate(servers[:3]):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        holds_soon(lambda: all(_met(server) == 6 for server in servers))
        for primary, replica in zip(servers[:3], servers[3:], strict=True):
            name = _text(primary.ask("CLUSTER", "MYID"))
            holds_soon(lambda: _was_taken(replica, "CLUSTER", "REPLICATE", name))  # noqa: B023 - as above
        for replica in servers[3:]:
            holds_soon(lambda: replica.ask("INFO", "replication").get("master_link_status") == "up")  # noqa: B023
        holds_soon(cluster.is_whole)
        yield cluster


def _sentinel(stack: ExitStack, program: Path, folder: Path, port: int, primary: Server) -> Server:
    here = folder / str(port)
    here.mkdir(parents=True)
    told = here / "sentinel.conf"
    told.write_text(
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2\n"
        f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {SERVICE} 4000\n"
    )
    return held(stack, Server(program, here, port, is_sentinel=True), str(told), "--sentinel")


def _knows_all(sentinel: Server) -> bool:
    [told] = [each for each in sentinel.ask("SENTINEL", "MASTERS") if _pairs(each).get("name") == SERVICE]
    known = _pairs(told)
    return (known.get("num-slaves"), known.get("num-other-sentinels")) == ("2", "2")


def _pairs(flat: Any) -> dict[str, str]:
    words = [_text(word) for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


def _met(server: Server) -> int:
    return int(_ask(server, "CLUSTER", "INFO").get("cluster_known_nodes", "0"))


def _ask(server: Server, *words: Any) -> dict[str, str]:
    lines = _text(server.ask(*words)).splitlines()
    return dict(line.partition(":")[::2] for line in lines if ":" in line)


def _was_taken(server: Server, *words: Any) -> bool:
    try:
        server.ask(*words)
    except redis.ResponseError:
        return False
    return True


def _text(told: Any) -> str:
    return told.decode() if isinstance(told, bytes) else str(told)
