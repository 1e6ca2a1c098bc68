"""Commands run here, in this process, with nothing of this machine's settings."""

import os
from pathlib import Path

import pytest

from tests.cli.command import Command


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, and none of our variables."""
    for name in [name for name in os.environ if name.startswith("RUNSTORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""
    return Command(capsys)
