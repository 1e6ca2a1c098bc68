"""Servers to fail over, of each kind that this machine has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.topology.deployments import Clustered, Guarded, clustered, guarded
from tests.topology.servers import Pair, pair, program_of


@pytest.fixture(params=["wheel", "installed"])
def program(request: pytest.FixtureRequest) -> Path:
    return program_of(request.param)


@pytest.fixture(params=["wheel", pytest.param("installed", marks=pytest.mark.slow)])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with pair(program_of(request.param), tmp_path) as made:
        yield made


@pytest.fixture
def cluster(program: Path, tmp_path: Path) -> Iterator[Clustered]:
    with clustered(program, tmp_path) as made:
        yield made


@pytest.fixture(params=[guarded, clustered], ids=["sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest, program: Path, tmp_path: Path) -> Iterator[Guarded | Clustered]:
    with request.param(program, tmp_path) as made:
        yield made
