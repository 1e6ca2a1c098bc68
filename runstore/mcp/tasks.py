"""The Tasks extension (SEP-2663) of the era 2026-07-28: a task is a run, and its id is the run's.

The SDK has no such extension, but takes methods and results of one. Nothing is kept for it here: any gateway answers
for any task, and whoever may see the run may see the task. `failed` is never told, for the extension means by it an
error of the protocol: a run that failed is a completed task whose result says so.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import mcp_types as types
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from runstore.core.errors import AmbiguousRunId, InvalidRunId, RunNotFound, RunstoreError
from runstore.core.status import TERMINAL, Status
from runstore.mcp.failures import failure_of
from runstore.mcp.port import ToolPort
from runstore.mcp.results import answered

EXTENSION: Final = "io.modelcontextprotocol/tasks"
POLL_MS: Final = 1000
_NO_TASK: Final = (RunNotFound, InvalidRunId, AmbiguousRunId)

Context = ServerRequestContext[Any, Any]
PortOf = Callable[[Context], ToolPort]
Handler = Callable[[ToolPort, str], Awaitable[dict[str, Any]]]


class TaskParams(types.RequestParams):
    """What `tasks/get`, `tasks/cancel` and `tasks/update` are given."""

    task_id: str


class _Told(msgspec.Struct):
    run_id: str
    status: Status
    error_message: str | None


_TOLD: Final = msgspec.json.Decoder(_Told)


def declares_tasks(context: Context) -> bool:
    """Whether the client of this very request takes tasks."""
    wanted = types.ClientCapabilities(extensions={EXTENSION: {}})
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS and context.session.check_client_capability(wanted)


def install_tasks(server: "Server[Any]", port_of: PortOf) -> None:
    """Let a server serve tasks, and say so."""
    server.extensions[EXTENSION] = {}
    for method, handler in (("tasks/get", _get), ("tasks/cancel", _cancel), ("tasks/update", _update)):
        server.add_request_handler(method, TaskParams, _checked(method, handler, port_of))


async def create_task(port: ToolPort, run: bytes) -> dict[str, Any]:
    """Answer a call with a task in place of a result. Needs: a run that can be found already."""
    return {"resultType": "task"} | await _task(port, run)


def _checked(
    method: str, handler: Handler, port_of: PortOf
) -> Callable[[Context, TaskParams], Awaitable[dict[str, Any]]]:
    async def handle(context: Context, params: TaskParams) -> dict[str, Any]:
        _check(context, method, params.task_id)
        try:
            return await handler(port_of(context), params.task_id)
        except RunstoreError as error:
            code = types.INVALID_PARAMS if isinstance(error, _NO_TASK) else types.INTERNAL_ERROR
            raise MCPError(code, error.detail, msgspec.to_builtins(failure_of(error))) from None

    return handle


async def _get(port: ToolPort, task_id: str) -> dict[str, Any]:
    return await _task(port, await port.get_run(task_id, wait_s=0, note=lambda _: None))


async def _cancel(port: ToolPort, task_id: str) -> dict[str, Any]:
    await port.cancel(task_id)
    return {}


async def _update(port: ToolPort, task_id: str) -> dict[str, Any]:
    # no run ever asks for input, so whatever answers come are for nothing that is outstanding
    await port.get_run(task_id, wait_s=0, note=lambda _: None)
    return {}


async def _task(port: ToolPort, run: bytes) -> dict[str, Any]:
    told = _TOLD.decode(run)
    times = await port.times(told.run_id)
    task: dict[str, Any] = {
        "taskId": told.run_id,
        "status": _status(told.status),
        "statusMessage": told.error_message or f"the run is {told.status}",
        "createdAt": times.created_at,
        "lastUpdatedAt": times.updated_at,
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }
    if task["status"] == "completed":
        task["result"] = answered(run).model_dump(by_alias=True, mode="json", exclude_none=True)
    return task


def _status(status: Status) -> str:
    if status not in TERMINAL:
        return "working"
    return "cancelled" if status is Status.CANCELLED else "completed"


def _check(context: Context, method: str, task_id: str) -> None:
    """Check that a request about a task may be made at all.

    Raises: MCPError.
    """
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", method)
    if not declares_tasks(context):
        required: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"{method} is for clients that declare {EXTENSION} in the capabilities of the request",
            required,
        )
    if context.request is not None and decode_header_value(context.request.headers.get(MCP_NAME_HEADER)) != task_id:
        raise MCPError(types.HEADER_MISMATCH, f"the header {MCP_NAME_HEADER} must be the taskId of the request")
