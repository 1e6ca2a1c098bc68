"""The parts alone, each a process over one server, and commands that are interrupted."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstore_worker.sample import ensure_sample
from tests.cli.processes import PATIENT, Started, environment, run, started

pytestmark = PATIENT


class Parts:
    """A gateway, a projector and a worker, and how to ask the gateway."""

    def __init__(self, folder: Path, gateway: Started, projector: Started, worker: Started, token: str) -> None:
        self.folder = folder
        self.gateway, self.projector, self.worker = gateway, projector, worker
        self.variables = {"RUNSTORE_URL": gateway.url, "RUNSTORE_TOKEN": token}

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return run(*words, folder=self.folder, **self.variables)


@pytest.fixture(scope="module")
def parts(real_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("parts")
    asyncio.run(ensure_sample(folder))
    (folder / "runstore.toml").write_text(
        f'[store]\nredis_url = "{real_server}"\n\n[gateway]\nport = 0\n\n'
        f'[projects.forecasts]\nrepository = "./forecasts"\ncommand = ["{sys.executable}", "model.py"]\n'
    )
    with (
        started("gateway", folder=folder) as gateway,
        started("projector", folder=folder) as projector,
        started("worker", folder=folder) as worker,
    ):
        made = run("token", "create", "--name", "parts", "--scope", "admin", folder=folder)
        assert made.returncode == 0, made.stderr
        yield Parts(folder, gateway, projector, worker, made.stdout.strip())
        run("token", "revoke", "parts", folder=folder)


def test_the_parts_find_the_store_in_the_file_and_execute_a_run(parts: Parts) -> None:
    assert parts.gateway.said["ws_url"].endswith("/v1/ws")
    assert list(parts.gateway.said) == ["url", "ws_url"]

    told = parts.run("run", "forecasts", "--input", "horizon=2", "--wait")

    assert told.returncode == 0, told.stderr
    assert "success" in told.stdout
    assert '{"revenue":[100,110]}' in told.stdout


def test_a_failed_run_says_where_its_last_words_are(parts: Parts) -> None:
    told = parts.run("run", "forecasts", "--input", "horizon=0", "--wait")
    hint = told.stdout.splitlines()[-1].split()

    assert told.returncode == 1
    assert hint[:3] == ["logs", "runstore", "logs"]
    assert "horizon must be a whole number" in parts.run("logs", hint[3]).stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc")
def test_ctrl_c_ends_a_watch_quietly_with_130(parts: Parts) -> None:
    run_id = parts.run("run", "forecasts", "--input", "pause_s=60").stdout.strip()
    with _watching(parts, run_id, "--all") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)

    assert process.returncode == 130
    assert errors == b""
    assert parts.run("cancel", run_id).returncode == 0
    assert parts.run("watch", run_id).returncode == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_part_stops_in_order_when_it_is_told_to(tmp_path: Path, parts: Parts, number: int) -> None:
    (tmp_path / "runstore.toml").write_text((parts.folder / "runstore.toml").read_text())
    for part in ("gateway", "projector"):
        with started(part, folder=tmp_path) as service:
            assert service.end(number) == 0
            assert service.stderr == ""


def test_a_jwt_issuer_is_refused_as_long_as_no_jwt_is_taken(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text('[auth.jwt]\nissuer = "https://example.eu.auth0.com/"\n')

    told = run("gateway", "--redis-url", "redis://127.0.0.1:1", folder=tmp_path)

    assert told.returncode == 2
    assert "[auth.jwt]" in told.stderr


def _watching(parts: Parts, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "runstore.cli", "watch", *words],
        cwd=parts.folder,
        env=environment(**parts.variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
