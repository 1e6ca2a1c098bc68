"""The tools as a server of the MCP SDK, for both eras of the protocol."""

import logging
from typing import Any, Final

import mcp_types as types
import msgspec
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from runstore import __version__
from runstore.core.errors import RunstoreError
from runstore.core.trace import read_traceparent
from runstore.mcp.arguments import RunProject, read_arguments
from runstore.mcp.failures import INTERNAL, failure_of
from runstore.mcp.port import ToolPort
from runstore.mcp.results import answered, failed
from runstore.mcp.schemas import schema_of
from runstore.mcp.tasks import create_task, declares_tasks, install_tasks
from runstore.mcp.tools import INSTRUCTIONS, TOOLS, Call, Tool, has_ended
from runstore.mcp.waiting import telling

PORT: Final = "runstore.port"
"""Where the scope of an HTTP request has the port of its caller."""

Context = ServerRequestContext[Any, Any]
_LISTED_FOR_MS: Final = 60 * 60 * 1000
_LOG: Final = logging.getLogger("runstore.mcp")


def make_server(port: ToolPort | None = None) -> "Server[Any]":
    """Make a server. `port` is what its tools stand on; over HTTP each request brings one of its own."""
    listed = types.ListToolsResult(tools=[_describe(tool) for tool in TOOLS.values()])
    schemas = {tool.name: tool.input_schema for tool in listed.tools}

    def port_of(context: Context) -> ToolPort:
        found: ToolPort | None = context.request.scope[PORT] if context.request is not None else port
        assert found is not None
        return found

    async def list_tools(_: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return listed

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> Any:
        tool = TOOLS.get(params.name)
        if tool is None:
            known = ", ".join(TOOLS)
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {params.name[:60]!r}: there are {known}")
        return await _answer(tool, context, params, port_of(context))

    server: Server[Any] = Server(
        "runstore",
        version=__version__,
        title="runstore",
        description="Runs of projects: look them up, ask for them, wait for their end.",
        instructions=INSTRUCTIONS,
        cache_hints={"tools/list": CacheHint(_LISTED_FOR_MS, "public")},
        get_tool_input_schema=schemas.get,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    install_tasks(server, port_of)
    return server


async def _answer(tool: Tool, context: Context, params: types.CallToolRequestParams, port: ToolPort) -> Any:
    """Call a tool; what goes wrong is a result too, which an agent can read and act on."""
    try:
        asked = read_arguments(tool.arguments, tool.name, params.arguments)
        is_task = isinstance(asked, RunProject) and declares_tasks(context) and _may_be_task(asked, params)
        if is_task:
            asked = msgspec.structs.replace(asked, mode="async")
        async with telling(context.session.report_progress, tool.waits_s(asked)) as note:
            body = await tool.call(Call(port=port, note=note, traceparent=_trace(context)), asked)
        if is_task and not has_ended(body):
            return await create_task(port, body)
    except RunstoreError as error:
        return failed(failure_of(error))
    except Exception:  # noqa: BLE001 - a bug, told as one
        _LOG.exception("tool_failed", extra={"tool": tool.name})
        return failed(INTERNAL)
    return answered(body)


def _may_be_task(asked: RunProject, params: types.CallToolRequestParams) -> bool:
    """Whether a task may be the answer: only where the run as it stands was not asked for by mode="async"."""
    return asked.mode == "sync" or (params.arguments or {}).get("mode") is None


def _trace(context: Context) -> str | None:
    meta: Any = context.meta or {}
    told = meta.get("traceparent")
    return read_traceparent(told) if isinstance(told, str) else None


def _describe(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.arguments),
        output_schema=schema_of(tool.answer),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.is_read_only,
            destructive_hint=tool.is_destructive,
            idempotent_hint=tool.is_idempotent,
            open_world_hint=tool.is_open_world,
        ),
    )
