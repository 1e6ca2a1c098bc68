"""Servers to fail over, of each kind that this machine has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.topology.servers import Pair, pair, programs


@pytest.fixture(scope="session")
def wheel_program() -> Path:
    found = programs()
    if "wheel" not in found:
        pytest.skip("the server in the wheel does not run on this machine")
    return found["wheel"]


@pytest.fixture
def servers(wheel_program: Path, tmp_path: Path) -> Iterator[Pair]:
    with pair(wheel_program, tmp_path) as made:
        yield made
