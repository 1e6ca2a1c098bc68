"""The services as processes: numbers on a port of their own, those of several processes together."""

import subprocess
import sys
from pathlib import Path

import pytest

from runstore.core.ids import RunId
from tests.cli.processes import PATIENT, run, started, until
from tests.metrics.scrape import fetched, number, parsed

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="several processes share a port as on Linux"),
    PATIENT,
]
RUN_ID = RunId("66666666-6666-6666-6666-666666666666")
PROJECT = '[projects.forecasts]\nrepository = "{}"\ncommand = ["true"]\n'


def test_each_role_tells_its_numbers_on_a_port_of_its_own_and_several_processes_tell_one_sum(
    tmp_path: Path, redis_url: str
) -> None:
    at = ("--redis-url", redis_url)
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=tmp_path).stdout.strip()
    (tmp_path / "runstore.toml").write_text(PROJECT.format(repository(tmp_path / "model")))
    asked = 12
    with (
        started("projector", "--processes", "2", "--metrics-port", "0", *at, folder=tmp_path) as projector,
        started(
            *("gateway", "--processes", "2", "--port", "0", "--metrics-port", "0"), *at, folder=tmp_path
        ) as gateway,
        started("worker", "--metrics-port", "0", *at, folder=tmp_path) as worker,
    ):
        run_id = gateway.ask("/v1/runs", {"project_name": "forecasts"}, token=token)[1]["run_id"]
        assert until(lambda: gateway.ask(f"/v1/runs/{run_id}", token=token)[1].get("status") == "success")
        for _ in range(asked):
            gateway.ask("/v1/runs", token=token)

        def listed(url: str) -> float:
            return number(parsed(fetched(url)), "runstore_http_requests_total", method="GET", route="/v1/runs")

        # which of the processes answers is the kernel's choice
        assert until(lambda: listed(f"{gateway.url}/metrics") == listed(gateway.said["metrics_url"]) == asked)
        assert until(lambda: number(parsed(fetched(projector.said["metrics_url"])), "runstore_commits_total") >= 3)
        of_projector = parsed(fetched(projector.said["metrics_url"]))
        assert until(
            lambda: number(parsed(fetched(projector.said["metrics_url"])), "runstore_projector_partitions") == 16
        )
        assert number(of_projector, "runstore_partitions") == 16
        assert number(of_projector, "runstore_transitions_total", status="success") == 1
        assert number(of_projector, "runstore_redis_connections_total") >= 2
        of_worker = parsed(fetched(worker.said["metrics_url"]))
        assert number(of_worker, "runstore_worker_runs_total", outcome="success") == 1
        assert number(of_worker, "runstore_spool_events") == 0
        assert fetched(worker.said["metrics_url"].replace("/metrics", "/healthz")) == "alive\n"
        for service in (gateway, projector, worker):
            assert fetched(service.said["metrics_url"].replace("/metrics", "/readyz")) == "ready\n"
            assert service.end() == 0, service.stderr


def test_dev_tells_the_numbers_of_all_its_parts_together(tmp_path: Path) -> None:
    with started("dev", "--port", "0", folder=tmp_path) as dev:
        read = parsed(fetched(dev.url + "/metrics"))

    assert number(read, "runstore_ready") == number(read, "runstore_feed_connected") == 1
    assert number(read, "runstore_projector_partitions") == 16
    assert number(read, "runstore_worker_slots") == 2
    assert number(read, "runstore_redis_memory_bytes") > 0


@pytest.mark.slow
def test_a_port_for_numbers_that_is_taken_is_told(tmp_path: Path, redis_url: str) -> None:
    at = ("--redis-url", redis_url)
    with started("projector", "--metrics-port", "0", *at, folder=tmp_path) as projector:
        port = projector.said["metrics_url"].rsplit(":", 1)[1].partition("/")[0]
        told = run("projector", "--metrics-port", port, *at, folder=tmp_path)
        several = run("projector", "--processes", "2", "--metrics-port", port, *at, folder=tmp_path)

    assert (told.returncode, several.returncode) == (2, 2)
    assert f"127.0.0.1:{port} is taken by another program: give another --metrics-port" in told.stderr
    assert f"127.0.0.1:{port} is taken by another program" in several.stderr


def repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.py").write_text("")
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-C", str(folder))
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "A model")):
        subprocess.run([*git, *words], check=True)
    return folder
