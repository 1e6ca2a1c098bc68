"""Streams that are closed, full or of another encoding: told in a sentence or not at all, and never by a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import PATIENT, environment, run

pytestmark = PATIENT

COMMAND = f"{sys.executable} -m runstore.cli"


def shell(line: str, folder: Path, **changes: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment(**changes), capture_output=True, timeout=90, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_exit_code(closed: str, tmp_path: Path) -> None:
    told = shell(f"{COMMAND} list --url http://127.0.0.1:1 {closed}", tmp_path)

    assert told.returncode == 5
    assert b"Traceback" not in told.stderr


def test_a_closed_stdin_holds_no_inputs(tmp_path: Path) -> None:
    told = shell(f"{COMMAND} run p --inputs - --url http://127.0.0.1:1 <&-", tmp_path)

    assert told.returncode == 2
    assert b"the inputs are not JSON" in told.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_an_output_that_cannot_be_written_is_a_sentence_and_no_status_of_a_run(tmp_path: Path) -> None:
    told = shell(f"{COMMAND} demo > /dev/full", tmp_path)

    assert told.returncode == 74
    assert told.stderr == b"runstore: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_an_error_that_nobody_can_be_told_is_in_the_exit_code(tmp_path: Path) -> None:
    assert shell(f"{COMMAND} list 2> /dev/full", tmp_path).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_a_pipe_gets_utf_8_whatever_the_locale_says(encoding: str, tmp_path: Path) -> None:
    told = run("demo", folder=tmp_path, PYTHONIOENCODING=encoding)

    assert told.returncode == 0, told.stderr
    assert "fitting…" in json.loads(told.stdout.splitlines()[-1])["output"]["stdout"]
