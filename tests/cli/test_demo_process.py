"""`runstore demo` as people run it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import PATIENT, environment, living, run, until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc"),
    PATIENT,
]
TEN = (
    *("run_id", "run_number", "project_name", "status", "commit_sha", "started_at", "finished_at"),
    *("error_message", "output", "truncated"),
)


def test_the_demo_runs_the_sample_shows_the_push_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()

    told = run("demo", folder=tmp_path, TMPDIR=str(scratch))

    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout[told.stdout.index("\n{") :])
    assert tuple(answer) == TEN
    assert answer["status"] == "success"
    assert "ms" in told.stdout
    assert [word for word in ("pending", "running", "success") if word not in told.stdout] == []
    assert not living(set(), tmp_path)
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / ".runstore").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path, number: int) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "runstore.cli", "demo"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(scratch)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"starting")
        process.send_signal(number)
        _, complaint = process.communicate(timeout=15)

    assert process.returncode == 128 + number
    assert complaint == b""
    assert not living(set(), scratch)
    assert list(scratch.iterdir()) == []


def test_a_demo_on_a_folder_of_ones_own_leaves_the_data_there(tmp_path: Path) -> None:
    told = run("demo", "--data-dir", "kept", folder=tmp_path)

    assert told.returncode == 0, told.stderr
    assert (tmp_path / "kept").is_dir()
    assert not living(set(), tmp_path)


def test_a_reader_that_leaves_ends_the_demo_quietly(tmp_path: Path) -> None:
    script = f"{sys.executable} -m runstore.cli demo | head -n 1"

    told = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )

    assert told.stdout.count("\n") == 1
    assert told.stderr == ""
    assert until(lambda: not living(set(), tmp_path))
