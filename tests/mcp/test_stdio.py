"""`runstore mcp` as an agent host starts it: what it says on stdout, and how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import environment, run
from tests.mcp.agents import Site

pytestmark = pytest.mark.timeout(120)
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
}
WITHOUT = "import sys; sys.modules['mcp'] = None; from runstore.cli import main; sys.exit(main(['mcp']))"


@asynccontextmanager
async def host(folder: Path, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runstore.cli", "mcp"),
        cwd=folder,
        env=environment(**settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def tell(process: asyncio.subprocess.Process, message: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")
    return json.loads(await process.stdout.readline())


async def test_stdout_carries_the_protocol_and_nothing_else(site: Site) -> None:
    async with host(site.folder, RUNSTORE_URL=site.dev.url, RUNSTORE_TOKEN=site.dev.token) as process:
        hello = await tell(process, HELLO)
        assert process.stdin is not None
        process.stdin.write(b'no json\n{"a": "\\ud800"}\n{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        listed = await tell(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
        rest, errors = await process.communicate(b"")

    assert hello["result"]["serverInfo"]["name"] == "runstore"
    assert len(listed["result"]["tools"]) == 5
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert (process.returncode, b"Traceback" in errors) == (0, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_while_it_waits_for_its_host(site: Site, number: int) -> None:
    async with host(site.folder, RUNSTORE_URL=site.dev.url, RUNSTORE_TOKEN=site.dev.token) as process:
        await tell(process, HELLO)
        process.send_signal(number)
        async with asyncio.timeout(15):
            await process.wait()


async def test_a_gateway_that_is_away_is_told_by_the_tools(tmp_path: Path) -> None:
    async with host(tmp_path, RUNSTORE_URL="http://127.0.0.1:1", RUNSTORE_TOKEN="x" * 20) as process:
        await tell(process, HELLO)
        call = {"name": "list_runs", "arguments": {}}
        told = await tell(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})

    assert told["result"]["isError"]
    assert told["result"]["structuredContent"]["error"] == "gateway_unreachable"


async def test_a_token_that_is_not_valid_is_told_by_the_tools(site: Site) -> None:
    async with site.agent("stdio", token="wrong" * 6) as agent:
        told = await agent.fail("list_runs")

    assert told["error"] == "unauthorized"


async def test_a_token_that_may_write_only_gets_the_run_that_it_asked_for(site: Site) -> None:
    token = site.make_token("writes", "--scope", "runs:write")
    async with site.agent("stdio", token=token) as agent:
        run = await agent.call("run", project_name="models", mode="sync")
        told = await agent.fail("get_run", run_id=run["run_id"])

    assert (run["project_name"], told["error"]) == ("models", "forbidden")


def test_without_a_gateway_to_go_to_it_exits_with_2(tmp_path: Path) -> None:
    said = run("mcp", folder=tmp_path)

    assert (said.returncode, said.stdout) == (2, "")
    assert "RUNSTORE_URL" in said.stderr


def test_without_the_extra_it_exits_with_2_and_says_what_to_install(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        cwd=tmp_path,
        env={**environment(), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "runstore: MCP is an extra of its own: pip install 'runstore[mcp]'\n"
