"""Run a command as a shell would, and look at what it said."""

from typing import NamedTuple

import pytest

from runstore.cli import main


class Said(NamedTuple):
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str


class Command:
    """Commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Said:
        self._capsys.readouterr()
        code = main(words)
        return Said(code, *self._capsys.readouterr())
