"""A real server with the users and the configuration of `deploy/redis`."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import redis

from tests.topology.servers import Server, free_ports

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORDS = {role: f"{role}-password" for role in ("publisher", "worker", "gateway", "projector", "admin", "backup")}


def users_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("users", DEPLOY / "redis" / "users.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Secured(Server):
    """A server that nobody talks to without a password."""

    def start(self, *arguments: str) -> "Secured":
        self.folder.mkdir(parents=True, exist_ok=True)
        is_valkey = "valkey" in self.program.name
        users = users_module().users({role: [word] for role, word in PASSWORDS.items()}, since_7_2=is_valkey)
        (self.folder / "users.acl").write_text(f"{users}user test on nopass ~* &* +@all\n")
        (self.folder / "redis.conf").write_text((DEPLOY / "redis" / "redis.conf").read_text())
        super().start(str(self.folder / "redis.conf"), *arguments)
        return self

    def url_of(self, role: str) -> str:
        return f"redis://{role}:{PASSWORDS[role]}@127.0.0.1:{self.port}"

    @contextmanager
    def asked(self) -> Iterator[Any]:
        with redis.Redis(port=self.port, username="test", password="any", protocol=2, socket_timeout=5) as client:
            yield client

    @contextmanager
    def as_user(self, role: str) -> Iterator[Any]:
        with redis.Redis.from_url(self.url_of(role), protocol=2, socket_timeout=5) as client:
            yield client

    def restart(self) -> None:
        """Kill it and start it again on its log: it has forgotten every script."""
        self.kill()
        self.start()


@contextmanager
def secured(program: Path, folder: Path) -> Iterator[Secured]:
    [port] = free_ports(1)
    server = Secured(program, folder, port, aclfile=folder / "users.acl")
    server.settings = {"port": port, "dir": folder, "aclfile": folder / "users.acl"}
    try:
        yield server.start()
    finally:
        server.kill()


def refused(server: Secured) -> list[tuple[str, str, str]]:
    """What the server has refused so far: to which user, why, and which command or key."""
    found = []
    for entry in server.ask("ACL", "LOG"):
        told = {name.decode(): value for name, value in zip(entry[::2], entry[1::2], strict=True)}
        user, reason, what = (told[name].decode(errors="replace") for name in ("username", "reason", "object"))
        found.append((user, reason, what))
    return found
