"""A server for each test of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runstore.engine.errors import NoServer
from tests.publish.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "redis")
    try:
        made.start()
    except NoServer:
        pytest.skip("no such server can be started on this machine")
    yield made
    made.stop()
