"""The conformance tool of MCP, run against a gateway; it cannot send a token, so a forwarder adds one."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

TOOL = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
NODE = "node@22"
"""The tool needs a node of 22 or later, which npm has as a package."""

INSTALLED_S = 150.0
ONE_RUN_S = 150.0
_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "content-encoding"}


@asynccontextmanager
async def forwarder(url: str, token: str) -> AsyncIterator[str]:
    """Forward everything to a gateway as it came, the token added."""
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
            headers.append(("Authorization", f"Bearer {token}"))
            async with session.request(
                request.method, url + request.path_qs, headers=headers, data=await request.read()
            ) as answer:
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


async def install(folder: Path) -> str | None:
    """Install the tool from npm (None), or say why it cannot be had here."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "node and npm are not here"
    code, said = await _ended(
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), NODE, TOOL], folder, INSTALLED_S
    )
    return None if code == 0 else f"npm cannot get {TOOL} here: {said[-300:]}"


async def failures(folder: Path, url: str, requirements: str) -> tuple[set[str], set[str]]:
    """Run what a revision of the protocol requires; return the checks that passed and those that failed."""
    results = folder / requirements
    bin_folder = folder / "node_modules" / ".bin"
    command = [
        *(str(bin_folder / "node"), str(bin_folder / "conformance"), "server", "--url", url),
        *("--requirements", requirements, "--output-dir", str(results)),
    ]
    code, said = await _ended(command, folder, ONE_RUN_S)
    assert results.is_dir(), f"the tool left no results ({code}): {said[-2000:]}"
    passed: set[str] = set()
    failed: set[str] = set()
    for path in sorted(results.rglob("checks.json")):
        scenario = path.parent.name.removeprefix("server-").rpartition("-2")[0]
        for check in json.loads(path.read_text()):
            name = f"{scenario}:{check['id']}"
            {"SUCCESS": passed, "FAILURE": failed}.get(check["status"], set()).add(name)
    return passed - failed, failed


async def _ended(command: list[str], folder: Path, within_s: float) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "npm_config_cache": str(folder / "cache"), "NO_COLOR": "1"},
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
