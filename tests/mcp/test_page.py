"""The page on MCP says what is so."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from runstore.core.errors import RunNotFound
from runstore.mcp.failures import failure_of
from runstore.mcp.tools import TOOLS
from runstore.resolve import not_found
from tests.cli.processes import environment
from tests.mcp.agents import Site

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]


def configured(key: str, site: Site) -> Any:
    text = json.dumps(next(one["mcpServers"]["runstore"] for one in EXAMPLES if key in str(one)))
    return json.loads(text.replace("http://127.0.0.1:8080", site.dev.url).replace("YOUR_TOKEN", site.dev.token))


@pytest.mark.timeout(120)
async def test_the_configuration_over_http_reaches_the_tools(site: Site) -> None:
    server = configured("headers", site)

    async with (
        httpx2.AsyncClient(headers=server["headers"]) as http,
        Client(streamable_http_client(server["url"], http_client=http)) as client,
    ):
        assert len((await client.list_tools()).tools) == len(TOOLS)


@pytest.mark.timeout(120)
async def test_the_configuration_over_stdio_reaches_the_tools(site: Site) -> None:
    server = configured("command", site)
    command = str(Path(sys.executable).parent / server["command"])

    async with Client(
        StdioServerParameters(command=command, args=server["args"], env=environment(**server["env"]), cwd=site.folder)
    ) as client:
        assert (await client.call_tool("list_runs", {"limit": 1})).is_error is False


def test_the_table_names_each_tool_with_its_hints() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `runs:\w+` \| ([\w, -]*)\|", PAGE, re.MULTILINE))

    assert list(rows) == list(TOOLS)
    for name, told in rows.items():
        tool = TOOLS[name]
        hints = [
            (tool.is_read_only, "read-only"),
            (tool.is_destructive, "destructive"),
            (tool.is_idempotent, "idempotent"),
        ]
        assert told.strip() == ", ".join(word for holds, word in hints if holds)


def test_the_failure_that_it_shows_is_what_an_agent_gets() -> None:
    failure = failure_of(RunNotFound(not_found("6666").detail))

    assert {"error": failure.error, "message": failure.message, "hint": failure.hint} in EXAMPLES
