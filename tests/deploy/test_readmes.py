"""The commands that the READMEs of `deploy/` begin with do what they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import redis

from tests.deploy.secured import DEPLOY, PASSWORDS
from tests.topology.servers import free_ports
from tests.waiting import holds_soon


def first_block(page: Path) -> list[str]:
    [lines] = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)[:1]
    return [line.partition("  #")[0].strip() for line in lines.splitlines()]


def test_redis_starts_with_its_users(tmp_path: Path) -> None:
    make, start = first_block(DEPLOY / "redis" / "README.md")
    program = shutil.which("redis-server")
    for name in ("users.py", "redis.conf"):
        shutil.copy(DEPLOY / "redis" / name, tmp_path)

    subprocess.run([sys.executable, *make.split()[1:]], cwd=tmp_path, check=True)
    text = (tmp_path / "users.acl").read_text()
    again = subprocess.run([sys.executable, *make.split()[1:]], cwd=tmp_path, check=True)

    assert again.returncode == 0
    assert (tmp_path / "users.acl").read_text() == text
    assert {place.name for place in (tmp_path / "passwords").iterdir()} == set(PASSWORDS)
    assert all(place.read_text().strip() not in text for place in (tmp_path / "passwords").iterdir())
    if program is None:
        return
    [port] = free_ports(1)
    with subprocess.Popen([program, *start.split()[1:], "--port", str(port)], cwd=tmp_path) as server:
        try:
            password = (tmp_path / "passwords" / "admin").read_text().split()[0]
            with redis.Redis(port=port, username="admin", password=password) as client:
                holds_soon(lambda: answers(client))
        finally:
            server.kill()


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
