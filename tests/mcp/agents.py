"""Agents: the SDK's own client, over each transport and in each era of the protocol."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client import ClientExtension
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from tests.cli.processes import Started, environment, run

Transport = Literal["http", "stdio"]
Era = Literal["2025-11-25", "2026-07-28"]
WITHIN_S = 55.0
RUN_FIELDS = (
    *("run_id", "run_number", "project_name", "status", "commit_sha", "started_at", "finished_at"),
    *("error_message", "output", "truncated"),
)


class Agent:
    """One agent."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, and return what it answered."""
        result = await self.result(tool, **arguments)
        assert not result.is_error, result
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def fail(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that cannot do it, and return what it said."""
        result = await self.result(tool, **arguments)
        assert result.is_error, result
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def result(self, tool: str, **arguments: Any) -> CallToolResult:
        return await self.client.call_tool(tool, arguments)


class Site:
    """A running `dev`, and a folder of the test's own."""

    def __init__(self, dev: Started, folder: Path) -> None:
        self.dev = dev
        self.folder = folder

    @asynccontextmanager
    async def agent(
        self,
        transport: Transport = "http",
        era: Era = "2026-07-28",
        *,
        token: str | None = None,
        extensions: tuple[ClientExtension, ...] = (),
    ) -> AsyncIterator[Agent]:
        """Connect an agent."""
        token = token or self.dev.token
        mode = "legacy" if era == "2025-11-25" else "auto"
        if transport == "http":
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                httpx2.AsyncClient(headers=headers, timeout=WITHIN_S) as http,
                Client(
                    streamable_http_client(self.dev.url + "/mcp", http_client=http), mode=mode, extensions=extensions
                ) as client,
            ):
                yield Agent(client)
            return
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "runstore.cli", "mcp"],
            env=environment(RUNSTORE_URL=self.dev.url, RUNSTORE_TOKEN=token),
            cwd=self.folder,
        )
        async with Client(server, mode=mode, extensions=extensions) as client:
            yield Agent(client)

    def make_token(self, name: str, *words: str) -> str:
        """Create a token by the command."""
        told = run(
            *("token", "create", "--name", name, *words, "--redis-url", str(self.dev.said["redis_url"])),
            folder=self.folder,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()

    def gate(self) -> Path:
        """Return a file that a model given it as `until` waits for."""
        return self.folder / "gate"
