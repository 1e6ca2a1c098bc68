"""What the pages on backup and on rotating say, done by their own commands on real servers."""

import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runstore import Publisher
from tests.cli.processes import PATIENT, environment, run, started
from tests.deploy.chroots import ROOT
from tests.deploy.secured import DEPLOY, Secured
from tests.deploy.test_moving import shell
from tests.topology.servers import Server, free_ports, programs
from tests.waiting import holds_soon

pytestmark = [PATIENT, pytest.mark.slow]


def block(page: str, heading: str, number: int = 0) -> str:
    """One of the commands under a heading of a page."""
    text = (ROOT / "docs" / page).read_text()
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    [found] = [each for each in part if each.startswith(heading)]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", found, re.DOTALL | re.MULTILINE)
    return str(blocks[number])


@pytest.fixture
def program() -> Path:
    found = programs().get("installed")
    if found is None or shutil.which("redis-cli") is None:
        pytest.skip("redis-server and redis-cli are not installed: apt-get install redis-server")
    return found


class Ready(Secured):
    """A server whose folder was made ready by somebody else."""

    def start(self, *arguments: str) -> "Ready":
        shutil.copy(DEPLOY / "redis" / "redis.conf", self.folder)
        Server.start(self, str(self.folder / "redis.conf"), *arguments)
        return self


class Rotated(Ready):
    """A server with the users that `users.py` has made."""

    def url_of(self, role: str) -> str:
        return f"redis://{role}:{self.passwords(role)[0]}@127.0.0.1:{self.port}"

    def passwords(self, role: str) -> list[str]:
        return (self.folder / "passwords" / role).read_text().split()

    @contextmanager
    def asked(self) -> Iterator[Any]:
        with self.as_user("admin") as client:
            yield client


def publish(url: str, folder: Path) -> str:
    with started("projector", "--redis-url", url, folder=folder), Publisher(url) as publisher:
        with publisher.track("p") as tracked:
            tracked.outputs["n"] = 1
        shown = ("rebuild", "--check", "--redis-url", url)
        holds_soon(lambda: " 1 runs compared" in run(*shown, folder=folder).stdout, 60)
    return run(*shown, folder=folder).stdout


def test_a_store_is_restored_from_its_backup(program: Path, tmp_path: Path) -> None:
    first, second = free_ports(2)
    folder = tmp_path / "work"
    folder.mkdir()
    before = Secured(program, tmp_path / "before", first)
    before.settings = {"port": first, "dir": before.folder, "aclfile": before.folder / "users.acl"}
    try:
        before.start()
        known = publish(before.url_of("projector"), folder)
        env = environment(BACKUP_URL=before.url_of("backup"))
        taken = shell(block("rebuild.md", "Backup"), env, tmp_path)
    finally:
        before.kill()
    assert taken.returncode == 0, taken.stdout + taken.stderr
    after = Ready(program, tmp_path / "after", second)
    after.settings = {"port": second, "dir": after.folder, "aclfile": after.folder / "users.acl"}
    after.folder.mkdir()
    shutil.copy(tmp_path / "runstore.rdb", after.folder)
    shutil.copy(before.folder / "users.acl", after.folder)
    *steps, start = block("rebuild.md", "Restore").strip().splitlines()
    made = shell("\n".join(steps), env, after.folder)

    try:
        after.start()
        restored = run("rebuild", "--check", "--redis-url", after.url_of("admin"), folder=folder)
        after.restart()
        again = run("rebuild", "--check", "--redis-url", after.url_of("admin"), folder=folder)
    finally:
        after.kill()

    assert (made.returncode, start) == (0, "redis-server redis.conf")
    assert "1 runs compared, 0 differences" in known
    assert (restored.stdout, again.stdout) == (known, known)


def test_a_password_is_rotated_under_a_service_that_runs(program: Path, tmp_path: Path) -> None:
    [port] = free_ports(1)
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(DEPLOY / "redis" / "users.py", folder)
    assert shell("python3 users.py", environment(), folder).returncode == 0
    server = Rotated(program, folder, port)
    server.settings = {"port": port, "dir": folder, "aclfile": folder / "users.acl"}
    rotate, forget = (block("rotating.md", "Passwords", number).replace(":6379", f":{port}") for number in (0, 1))

    try:
        server.start()
        with (
            started("projector", folder=tmp_path, RUNSTORE_REDIS_URL=server.url_of("projector")),
            started("gateway", "--port", "0", folder=tmp_path, RUNSTORE_REDIS_URL=server.url_of("gateway")) as old,
        ):
            rotated = shell(rotate, environment(), folder)
            holds_soon(lambda: is_ready(old.url))
            newest, oldest = server.passwords("gateway")
            with started("gateway", "--port", "0", folder=folder, RUNSTORE_REDIS_URL=server.url_of("gateway")) as new:
                forgotten = shell(forget, environment(), folder)
                holds_soon(lambda: is_ready(new.url), 60)
                before = server.url_of("gateway").replace(newest, oldest)
                refused = run("gateway", "--port", "0", folder=tmp_path, RUNSTORE_REDIS_URL=before)
    finally:
        server.kill()

    assert (rotated.returncode, rotated.stdout.strip()[-2:]) == (0, "OK"), rotated.stderr
    assert (forgotten.returncode, forgotten.stdout.strip()[-2:]) == (0, "OK"), forgotten.stderr
    assert newest != oldest
    assert refused.returncode == 5


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_token_is_rotated(redis_url: str, tmp_path: Path, bin_folder: Path) -> None:
    env = environment(RUNSTORE_REDIS_URL=redis_url, PATH=f"{bin_folder}:{environment()['PATH']}")
    with (
        started("projector", "--redis-url", redis_url, folder=tmp_path),
        started("gateway", "--port", "0", "--redis-url", redis_url, folder=tmp_path) as gateway,
    ):
        made = run("token", "create", "--name", "ci-1", "--redis-url", redis_url, folder=tmp_path).stdout.strip()
        gateway.said["token"] = made
        holds_soon(lambda: gateway.ask("/v1/runs")[0] == 200)
        done = shell(block("rotating.md", "API tokens"), env, tmp_path)
        new = done.stdout.splitlines()[0]
        holds_soon(lambda: gateway.ask("/v1/runs")[0] == 401)
        scope = gateway.ask("/v1/runs", {"project_name": "other"}, token=new)
        listed = gateway.ask("/v1/runs", token=new)

    assert done.returncode == 0, done.stderr
    assert scope[1]["code"] in {"forbidden", "unknown_project"}
    assert listed[0] in {200, 403}
