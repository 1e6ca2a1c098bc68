"""Every role over Sentinels and over a cluster, as processes of their own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.processes import PATIENT, run, started
from tests.topology.deployments import Clustered, Guarded

pytestmark = [pytest.mark.slow, PATIENT]
_SETTINGS = """
[store]
durability = "replicated"
[projects.mine]
repository = "./model"
command = ["sh", "-c", "echo {} > $RUNSTORE_OUTPUTS"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "model").mkdir(parents=True)
    name = "-c", "user.name=a", "-c", "user.email=a@example.org"
    for words in (("init", "-q", "-b", "main"), (*name, "commit", "-q", "--allow-empty", "-m", "Begin")):
        subprocess.run(["git", "-C", folder / "model", *words], check=True, timeout=20)
    (folder / "runstore.toml").write_text(_SETTINGS)
    return folder


def test_all_roles_work_together(deployment: Guarded | Clustered, project: Path) -> None:
    primaries = deployment.primaries() if isinstance(deployment, Clustered) else [deployment.primary]
    for server in primaries:
        server.ask("CONFIG", "SET", "appendonly", "yes")
    at = ("--redis-url", deployment.url)
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=project).stdout.strip()
    with (
        started("projector", *at, folder=project) as projector,
        started("gateway", "--port", "0", *at, folder=project) as gateway,
        started("worker", "--concurrency", "1", *at, folder=project) as worker,
    ):
        env = {"RUNSTORE_URL": gateway.url, "RUNSTORE_TOKEN": token}
        told = run("run", "mine", "--wait", "--json", folder=project, **env)
        ran = run("exec", "--project", "mine", *at, "--", "true", folder=project)
        listed = run("list", "--json", folder=project, **env)
        doctor = run("doctor", *at, folder=project)

        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["status"] == "success"
        assert ran.returncode == 0, ran.stderr
        assert len(json.loads(listed.stdout)["runs"]) >= 1
        assert doctor.returncode == 0, doctor.stdout
        assert doctor.stdout.count("is well") == len(primaries), doctor.stdout
        for service in (worker, gateway, projector):
            assert service.end() == 0, service.stderr
            assert service.stderr == ""
