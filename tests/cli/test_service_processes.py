"""The services as processes of their own over one Redis: ready in a line, of use together, gone at a signal."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.processes import PATIENT, foreign_group, is_hidden, living, run, started, until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc"),
    PATIENT,
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a settings file that names one project."""
    (tmp_path / "model").mkdir()
    for words in (
        ["init", "-q", "-b", "main"],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "Begin"],
    ):
        _git(tmp_path / "model", *words)
    (tmp_path / "runstore.toml").write_text(
        '[projects.mine]\nrepository = "./model"\n'
        'command = ["sh", "-c", "echo {} > $RUNSTORE_OUTPUTS; sleep ${S:-0}"]\n'
    )
    return tmp_path


def _git(folder: Path, *words: str) -> None:
    import subprocess

    subprocess.run(["git", "-C", folder, *words], check=True, timeout=20)


def test_gateway_projector_and_worker_together_execute_a_run(project: Path, redis_url: str) -> None:
    at = ("--redis-url", redis_url)
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=project).stdout.strip()
    with (
        started("projector", *at, folder=project) as projector,
        started("gateway", "--port", "0", *at, folder=project) as gateway,
        started("worker", "--concurrency", "1", *at, folder=project) as worker,
    ):
        told = run(*("run", "mine", "--wait", "--json"), folder=project, RUNSTORE_URL=gateway.url, RUNSTORE_TOKEN=token)
        doctor = run("doctor", *at, folder=project)

        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["status"] == "success"
        assert doctor.returncode == 0, doctor.stdout
        assert set(gateway.said) == {"url", "ws_url"}
        assert projector.said["ready"] is True
        assert worker.said["ready"] is True
        assert worker.said["projects"] == ["mine"]
        for service in (worker, gateway, projector):
            assert service.end() == 0, service.stderr
            assert service.stderr == ""
        assert not living(worker.family | gateway.family | projector.family, project)


def test_a_second_signal_ends_a_worker_that_would_still_wait_for_its_runs(project: Path, redis_url: str) -> None:
    settings = project / "runstore.toml"
    settings.write_text(settings.read_text() + 'env = { S = "60" }\n')
    at = ("--redis-url", redis_url)
    with (
        started("dev", "--port", "0", "--no-worker", *at, folder=project) as dev,
        started("worker", *at, folder=project) as worker,
    ):
        run_id = dev.ask("/v1/runs", {"project_name": "mine"})[1]["run_id"]
        assert until(lambda: dev.ask(f"/v1/runs/{run_id}")[1]["status"] == "running")
        worker.process.send_signal(signal.SIGTERM)

        assert worker.end(signal.SIGINT) == 128 + signal.SIGINT
        assert until(lambda: not living(worker.family - {dev.process.pid}, project / ".runstore" / "worker"))


def test_models_cannot_read_the_secrets_of_the_worker_that_runs_them(project: Path, redis_url: str) -> None:
    group = foreign_group()
    with (
        started("projector", "--redis-url", redis_url, folder=project, group=group) as projector,
        started("worker", "--redis-url", redis_url, folder=project, group=group) as worker,
    ):
        assert not is_hidden(projector.process.pid)  # it runs nobody's code
        assert is_hidden(worker.process.pid)


def test_a_gateway_whose_port_is_taken_says_so(project: Path, redis_url: str) -> None:
    with started("gateway", "--port", "0", "--redis-url", redis_url, folder=project) as first:
        port = first.url.rpartition(":")[2]

        second = run("gateway", "--port", port, "--redis-url", redis_url, "--json", folder=project)

    assert second.returncode == 2
    assert port in second.stderr
    assert second.stderr.count("\n") == 1
    assert second.stdout == ""


def test_a_worker_without_projects_says_how_to_name_one(tmp_path: Path, redis_url: str) -> None:
    told = run("worker", "--redis-url", redis_url, folder=tmp_path)

    assert told.returncode == 2
    assert "[projects.NAME]" in told.stderr


def test_a_worker_reads_its_settings_and_names_the_wrong_one(project: Path, redis_url: str) -> None:
    settings = project / "runstore.toml"
    settings.write_text(settings.read_text() + "[worker]\nconcurency = 3\n")

    told = run("worker", "--redis-url", redis_url, folder=project)

    assert told.returncode == 2
    assert "did you mean concurrency?" in told.stderr
