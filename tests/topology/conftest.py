"""Servers to fail over, of each kind that this machine has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.topology.deployments import Clustered, Guarded, clustered, guarded
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


@pytest.fixture(params=["wheel", "installed"])
def program(request: pytest.FixtureRequest) -> Path:
    found = programs()
    if request.param not in found:
        pytest.skip(f"no server that is {request.param} can be started on this machine")
    return found[request.param]


@pytest.fixture
def cluster(program: Path, tmp_path: Path) -> Iterator[Clustered]:
    with clustered(program, tmp_path) as made:
        yield made


@pytest.fixture(params=[guarded, clustered], ids=["sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest, program: Path, tmp_path: Path) -> Iterator[Guarded | Clustered]:
    with request.param(program, tmp_path) as made:
        yield made
