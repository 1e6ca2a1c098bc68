"""The conformance tool of MCP, run against a gateway by way of a forwarder.

The tool cannot send a token, so the forwarder adds one. And most of its scenarios call tools of its own example server:
those of the Tasks extension are given runs in their place, that the extension is measured by more than its absence.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

TOOL = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
NODE_FLOOR = 22
NODE = f"node@{NODE_FLOOR}"
"""The tool needs a node of 22 or later, which npm has as a package where the one here is older."""

INSTALLED_S = 150.0
ONE_RUN_S = 150.0
STANDS_FOR: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "greet": lambda _: ("list_runs", {"project_name": "nobody"}),
    "test_simple_text": lambda _: ("list_runs", {"project_name": "nobody"}),
    "test_error_handling": lambda _: ("get_run", {"run_id": "none"}),
    "test_tool_with_progress": lambda _: (
        "run",
        {"project_name": "models", "inputs": {"seconds": 0.5}, "mode": "sync"},
    ),
    "slow_compute": lambda given: ("run", {"project_name": "models", "inputs": {"seconds": given.get("seconds", 0)}}),
    "failing_job": lambda _: ("run", {"project_name": "models", "inputs": {"fail": 1}}),
}
"""What is called in place of a tool of the example server."""

_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "content-encoding"}


@asynccontextmanager
async def forwarder(url: str, token: str) -> AsyncIterator[str]:
    """Forward everything to a gateway as it came, the token added."""
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
            headers.append(("Authorization", f"Bearer {token}"))
            body, name = _stand_in(await request.read())
            if name is not None:
                headers = [(key, name if key.lower() == "mcp-name" else value) for key, value in headers]
            async with session.request(request.method, url + request.path_qs, headers=headers, data=body) as answer:
                kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
                response = web.StreamResponse(status=answer.status, headers=dict(kept))
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def _stand_in(body: bytes) -> tuple[bytes, str | None]:
    try:
        message = json.loads(body)
        params = message["params"]
        name, arguments = STANDS_FOR[params["name"]](params.get("arguments") or {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return body, None
    return json.dumps(message | {"params": params | {"name": name, "arguments": arguments}}).encode(), name


async def install(folder: Path) -> str | None:
    """Install the tool from npm (None), or say why it cannot be had here."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return "node and npm are not here"
    _, version = await _ended([node, "--version"], folder, INSTALLED_S)
    packages = [TOOL] if int(version.strip().removeprefix("v").partition(".")[0] or 0) >= NODE_FLOOR else [TOOL, NODE]
    command = [npm, "install", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefix", str(folder), *packages]
    code, said = await _ended(command, folder, INSTALLED_S)
    return None if code == 0 else f"npm cannot get {TOOL} here: {said[-300:]}"


async def checks(folder: Path, url: str, requirements: str) -> tuple[set[str], set[str]]:
    """Run what a revision of the protocol requires, and return the checks that passed and those that failed."""
    results = folder / requirements
    shutil.rmtree(results, ignore_errors=True)
    tool = str(folder / "node_modules" / ".bin" / "conformance")
    words = ("server", "--url", url, "--requirements", requirements, "--output-dir", str(results))
    code, said = await _ended([tool, *words], folder, ONE_RUN_S)
    assert results.is_dir(), f"the tool left no results ({code}): {said[-2000:]}"
    passed: set[str] = set()
    failed: set[str] = set()
    for path in sorted(results.rglob("checks.json")):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", path.parent.name)
        for check in json.loads(path.read_text()):
            name = f"{scenario}:{check['id']}"
            {"SUCCESS": passed, "FAILURE": failed}.get(check["status"], set()).add(name)
    return passed - failed, failed


async def _ended(command: list[str], folder: Path, within_s: float) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None, "it did not end in time"
    return process.returncode, said.decode(errors="replace")
