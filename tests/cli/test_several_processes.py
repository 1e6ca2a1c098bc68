"""`--processes`: one service in several processes that share the work, and begin and end together."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.processes import PATIENT, descendants, living, run, started, until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc"),
    PATIENT,
]


def test_gateways_and_projectors_of_two_processes_each_execute_what_one_would(tmp_path: Path, redis_url: str) -> None:
    at = ("--redis-url", redis_url)
    token = run("token", "create", "--name", "all", "--scope", "admin", *at, folder=tmp_path).stdout.strip()
    with (
        started("projector", "--processes", "2", *at, folder=tmp_path) as projector,
        started("gateway", "--processes", "2", "--port", "0", *at, folder=tmp_path) as gateway,
    ):
        answers = []
        for number in range(20):
            run_id = f"66666666-6666-6666-6666-6666666666{number:02d}"
            event = {"run_id": run_id, "status": "success", "project_name": "forecasts"}
            gateway.ask(f"/v1/runs/{run_id}/transitions", event, token=token)
            assert until(lambda run_id=run_id: gateway.ask(f"/v1/runs/{run_id}", token=token)[0] == 200)
            answers.append(gateway.ask(f"/v1/runs/{run_id}", token=token)[1]["status"])

        assert answers == ["success"] * 20
        assert len(descendants(gateway.process.pid)) == len(descendants(projector.process.pid)) == 2
        for service in (gateway, projector):
            assert service.end() == 0, service.stderr
            assert service.stderr == ""
        assert not living(gateway.family | projector.family, tmp_path)


def test_all_processes_end_with_the_first_that_dies(tmp_path: Path, redis_url: str) -> None:
    with started("projector", "--processes", "2", "--redis-url", redis_url, folder=tmp_path) as projector:
        os.kill(min(descendants(projector.process.pid)), signal.SIGKILL)

        assert projector.process.wait(30) == 1
        assert until(lambda: not living(projector.family, tmp_path))


def test_processes_notice_that_the_one_that_holds_them_was_killed(tmp_path: Path, redis_url: str) -> None:
    with started("projector", "--processes", "2", "--redis-url", redis_url, folder=tmp_path) as projector:
        projector.process.kill()

        assert until(lambda: not living(projector.family, tmp_path))


def test_a_number_of_processes_that_cannot_be_is_refused(tmp_path: Path, redis_url: str) -> None:
    told = run("gateway", "--processes", "0", "--redis-url", redis_url, folder=tmp_path)

    assert told.returncode == 2
    assert "--processes 0: from 1 to 256" in told.stderr
