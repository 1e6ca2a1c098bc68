"""Pages of the dashboard, opened and signed in to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.sdk.live import Live

PATIENT_MS = 20_000


class Opened:
    """A page, and what it complained of that it should not have."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        page.set_default_timeout(PATIENT_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)
        page.on("dialog", self._meet)

    def _hear(self, message: Any) -> None:
        # a browser says by itself that a request has failed, which a page cannot help
        is_its_own = "Failed to load resource" in message.text or "WebSocket connection to" in message.text
        if message.type in {"error", "warning"} and not is_its_own:
            self.complaints.append(message.text)

    async def _meet(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()


@asynccontextmanager
async def opened(browser: Any, url: str, **options: Any) -> AsyncIterator[Opened]:
    """Open the page, at the form that asks for a token."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    try:
        made = Opened(await context.new_page())
        await made.page.goto(url + "/")
        await made.page.wait_for_selector("form.signin")
        yield made
        assert not made.complaints, made.complaints
        assert not made.dialogs, made.dialogs
    finally:
        await context.close()


@asynccontextmanager
async def signed_in(browser: Any, running: Live, token: str | None = None, **options: Any) -> AsyncIterator[Opened]:
    """Open the page and sign in."""
    async with opened(browser, running.url, **options) as made:
        await made.page.fill("input[name=token]", token or running.token)
        await made.page.press("input[name=token]", "Enter")
        await made.page.wait_for_selector("header.top")
        yield made


@asynccontextmanager
async def at_run(browser: Any, running: Live, run_id: str) -> AsyncIterator[Any]:
    """Sign in, and go to the page of a run."""
    async with signed_in(browser, running) as made:
        await made.page.goto(f"{running.url}/#/run/{run_id}")
        yield made.page
