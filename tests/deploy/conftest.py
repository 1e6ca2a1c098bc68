"""What the tests of operation share."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder for PATH with the command `runstore` of this interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "runstore"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runstore.cli "$@"\n')
    command.chmod(0o755)
    return folder
