"""A real Chromium, and pages in it that complain of nothing."""

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.sdk.running import publisher, running

__all__ = ["chromium", "publisher", "running"]

ARGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture
async def chromium() -> AsyncIterator[Any]:
    """The system's browser."""
    playwright = pytest.importorskip(
        "playwright.async_api", reason="playwright is not installed: pip install 'runstore[browser]' to test the pages"
    )
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed: apt-get install chromium to test the pages in it")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=found, args=list(ARGS))
        yield browser
        await browser.close()
