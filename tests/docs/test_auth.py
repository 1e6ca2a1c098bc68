"""The page on who may do what says what the table of routes and the settings say, and its examples run."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runstore import AsyncClient, AsyncPublisher
from runstore.cli.auth import read_jwt
from runstore.config import Settings
from runstore.gateway.route import Route
from runstore.gateway.routes import ROUTES
from tests.docs.test_examples import ROOT, blocks
from tests.sdk.live import Live, live

PAGE = "docs/auth.md"
RUN_ID = "66666666-6666-6666-6666-666666666666"


@pytest.fixture
async def running(redis_url: str) -> AsyncIterator[Live]:
    async with live(redis_url) as started:
        yield started


def row(route: Route) -> str:
    scope = f"`{route.scope.value}`" if route.scope is not None else "open" if route.is_open else "any token"
    is_let_in = route.is_open or route.for_run_token
    for_run_token = "no" if not is_let_in else "yes" if route.scope is None else "of this run"
    return f"| `{route.method} {route.path}` | {scope} | {for_run_token} |"


def test_the_table_of_scopes_is_made_from_the_routes() -> None:
    table = "\n".join(["| call | scope | run token |", "|---|---|---|", *map(row, ROUTES)])

    assert f"\n{table}\n\n" in (ROOT / PAGE).read_text(encoding="utf-8")


def test_the_settings_on_the_page_are_read(tmp_path: Path) -> None:
    (told,) = blocks(PAGE, "toml")
    (tmp_path / "runstore.toml").write_text(told)

    jwt = read_jwt(Settings.load({}, tmp_path / "runstore.toml"))

    assert jwt is not None
    assert jwt.issuer == "https://example.eu.auth0.com/"


async def made_by_the_example(running: Live) -> str:
    (example,) = blocks(PAGE, "python")
    env = {**os.environ, "RUNSTORE_URL": running.url, "RUNSTORE_TOKEN": running.token}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", example, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told, complained = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, complained.decode()
    return told.decode().strip()


async def test_the_python_example_makes_a_token_with_which_the_browsers_example_watches_the_run(
    running: Live,
) -> None:
    async with (
        AsyncPublisher(running.redis_url, "forecasts") as publisher,
        AsyncClient(running.url, token=running.token) as client,
    ):
        event = await publisher.publish(run_id=RUN_ID, status="running")
        await client.get_run(RUN_ID, after=event.cursor)
        token, expires_at = (await made_by_the_example(running)).split()
        assert token.startswith("rrt_")
        if (node := shutil.which("node")) is None:
            pytest.skip("node is not installed: the browser's example was not run")

        made = json.dumps({"token": token, "run_id": RUN_ID, "expires_at": expires_at})
        shown = "(run) => { console.log(JSON.stringify(run)); }"
        script = f'{blocks(PAGE, "js")[1]}watch("{running.url}", {made}, {shown});'
        process = await asyncio.create_subprocess_exec(
            node,
            "--no-warnings",
            "--experimental-websocket",
            "-e",
            script,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            first = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
            await publisher.publish(run_id=RUN_ID, status="success", output={"outputs": {"revenue": [1]}})
            last = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
            rest, complained = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert (first["status"], last["status"], last["output"]["outputs"]) == ("running", "success", {"revenue": [1]})
    assert (process.returncode, rest, complained) == (0, b"", b"")
