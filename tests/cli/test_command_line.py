"""How the command line answers: usage errors in a sentence, exit codes, help."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runstore import __version__
from runstore.cli import main
from tests.cli.processes import environment, run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    told = capsys.readouterr().out
    for command in (
        *("demo", "dev", "gateway", "projector", "worker", "run", "get", "list", "watch", "cancel", "logs"),
        *("token", "doctor"),
    ):
        assert f" {command} " in told


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["gatway"], "gateway"),
        (["gateway", "--prot", "1"], "--port"),
        (["gateway", "--port", "many"], "port"),
        (["gateway", "--port", "70000"], "--port"),
        (["token", "craete"], "create"),
        (["token", "create"], "--name"),
        (["doctor", "--redis-ulr", "redis://x"], "--redis-url"),
    ],
)
def test_a_usage_error_names_what_was_probably_meant(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2

    told = capsys.readouterr()
    assert named in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize("service", ["gateway", "projector"])
def test_a_service_without_a_store_asks_for_one(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([service]) == 2

    assert "--redis-url" in capsys.readouterr().err


def test_a_service_stops_at_a_misspelt_variable(tmp_path: Path) -> None:
    told = run("gateway", folder=tmp_path, RUNSTORE_GATEWAY_PROT="1")

    assert told.returncode == 2
    assert "did you mean RUNSTORE_GATEWAY_PORT?" in told.stderr


def test_a_reader_that_has_gone_is_told_nothing(tmp_path: Path) -> None:
    with piped_into_nothing("--help", folder=tmp_path) as process:
        _, errors = process.communicate(timeout=20)

    assert errors == b""
    assert process.returncode == 0


def test_help_comes_without_what_only_the_services_need() -> None:
    script = "import sys; from runstore.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=20, check=True
    )

    assert not {"redis", "aiohttp", "runstore.gateway"} & set(told.stderr.split())


@contextmanager
def piped_into_nothing(*words: str, folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(
        [sys.executable, "-m", "runstore.cli", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        yield process
