"""Engines on a folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_builders import Configure, Launch

from runstore.engine import Engine, EngineConfig, start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".runstore"


@pytest.fixture
def configure(folder: Path) -> Configure:
    """A configuration that does not depend on what is installed on this machine."""

    def build(**changes: object) -> EngineConfig:
        return EngineConfig(**{"data_dir": folder, "search_path": "", **changes})  # type: ignore[arg-type]

    return build


@pytest.fixture
def launch(configure: Configure) -> Iterator[Launch]:
    started: list[Engine] = []

    def build(**changes: object) -> Engine:
        engine = start(configure(**changes))
        started.append(engine)
        return engine

    yield build
    for engine in started:
        engine.stop()
