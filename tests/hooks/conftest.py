"""The site that the tests of every hook share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hooks.site import Site


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site of the test's own, whose environment is set in the test's process as well."""
    async with await Site.begin(tmp_path) as made:
        for name, value in made.env.items():
            if name.startswith(("RUNSTORE_", "SITE_")):
                monkeypatch.setenv(name, value)
        yield made
