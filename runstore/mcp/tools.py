"""The tools: what an agent is told of each, and what each does. Nothing here knows the protocol."""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from runstore.core.status import TERMINAL, Status
from runstore.mcp.arguments import (
    MOST_WAIT_S,
    CancelRun,
    GetOutput,
    GetRun,
    ListRuns,
    RunProject,
)
from runstore.mcp.port import Note, ToolPort
from runstore.wire.views import RunPage, RunView

MOST_OUTPUT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of an output that a tool gives; what is larger is read over HTTP, in ranges."""

INSTRUCTIONS: Final = f"""\
runstore keeps the runs of projects: executions of models, each with a status, and outputs when it ended in success.
- To execute a project: run. With mode="sync" the answer is the finished run, where that takes {MOST_WAIT_S} s at most.
- After run(mode="async"), or where a sync run was answered before its end: get_run with wait_s, again until the status
  is success, failed, timed_out or cancelled.
- To find a run whose id you do not have: list_runs.
- Where truncated is true: get_run_output for what was cut."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a call brings beside its arguments."""

    port: ToolPort
    note: Note
    traceparent: str | None = None


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What `get_run_output` answers. `encoding` is how `value` is to be read: json, text or base64."""

    run_id: str
    output_name: str | None
    encoding: str
    value: Any


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool. `waits_s` says how long a call with these arguments may wait for a run."""

    name: str
    title: str
    description: str
    arguments: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    call: Callable[[Call, Any], Awaitable[bytes]]
    waits_s: Callable[[Any], float] = lambda _: 0.0
    is_read_only: bool = False
    is_destructive: bool = False
    is_idempotent: bool = False
    is_open_world: bool = False


class _Head(msgspec.Struct):
    run_id: str
    status: Status


_HEAD: Final = msgspec.json.Decoder(_Head)


def has_ended(run: bytes) -> bool:
    """Whether a run, in the ten fields' JSON, has ended."""
    return _HEAD.decode(run).status in TERMINAL


def id_of(run: bytes) -> str:
    """Return the id of a run in the ten fields' JSON."""
    return _HEAD.decode(run).run_id


def sync_wait_s(asked: RunProject) -> float:
    """Return how long a request to run waits."""
    return MOST_WAIT_S if asked.mode == "sync" else 0


async def _get_run(call: Call, asked: GetRun) -> bytes:
    return await call.port.get_run(asked.run_id, wait_s=asked.wait_s, note=call.note)


async def _get_run_output(call: Call, asked: GetOutput) -> bytes:
    found = await call.port.get_output(asked.run_id, asked.output_name, MOST_OUTPUT_BYTES)
    encoding, value = _encode(found.text, asked.encoding)
    return msgspec.json.encode(
        RunOutput(run_id=found.run_id, output_name=asked.output_name, encoding=encoding, value=value)
    )


def _encode(text: bytes, encoding: str) -> tuple[str, Any]:
    is_string = text.startswith(b'"')
    if encoding == "json" or (encoding == "auto" and not is_string):
        return "json", msgspec.Raw(text)
    plain = msgspec.json.decode(text, type=str) if is_string else text.decode()
    if encoding == "base64":
        return "base64", b64encode(plain.encode()).decode()
    return "text", plain


async def _list_runs(call: Call, asked: ListRuns) -> bytes:
    return await call.port.list_runs(asked)


async def _run(call: Call, asked: RunProject) -> bytes:
    return await call.port.run(asked, traceparent=call.traceparent, wait_s=sync_wait_s(asked), note=call.note)


async def _cancel_run(call: Call, asked: CancelRun) -> bytes:
    return await call.port.cancel(asked.run_id)


_TOOLS: Final = (
    Tool(
        name="get_run",
        title="Look a run up",
        description=f"""\
Look one run up by its run_id, or by the first 4 or more hex digits of it.

Use it after run(mode="async"), to learn how the run stands: give wait_s (up to {MOST_WAIT_S}) instead of asking in a
quick loop, and the answer comes the moment the run ends. If status is still pending or running then, call again.
Use it whenever the user names a run.
Do not use it after run(mode="sync") that answered with a finished run: that answer already has everything.

status is pending, running, success, failed, timed_out or cancelled; the last four are final and never change.
output is set when status is success; error_message says why where the run ended otherwise. truncated means that
output was over 1 MiB and was cut: get_run_output has the whole.""",
        arguments=GetRun,
        answer=RunView,
        call=_get_run,
        waits_s=lambda asked: asked.wait_s,
        is_read_only=True,
        is_idempotent=True,
    ),
    Tool(
        name="get_run_output",
        title="Read what a run left",
        description="""\
Read one output of a run by its name (a key of output.outputs), whole, or without output_name all that the run left:
exit_code, stdout, stderr and outputs, uncut.

Use it when get_run answered with truncated true, or when only one of many outputs is needed.
Do not use it for what get_run already showed. A run that has not ended has no output yet.""",
        arguments=GetOutput,
        answer=RunOutput,
        call=_get_run_output,
        is_read_only=True,
        is_idempotent=True,
    ),
    Tool(
        name="list_runs",
        title="List runs",
        description="""\
List runs, newest first, without their output: to discover runs whose ids you do not have, such as the last failed run
of a project, or which projects there are.

All filters given must hold. For the next page give next_cursor as cursor; null means that there is nothing after it.
Do not use it to wait for a run: get_run with wait_s does that.""",
        arguments=ListRuns,
        answer=RunPage,
        call=_list_runs,
        is_read_only=True,
        is_idempotent=True,
    ),
    Tool(
        name="run",
        title="Run a project",
        description=f"""\
Execute a project once with the given inputs.

mode="async" (the default) answers at once with the run as it stands, mostly pending: go on with get_run(run_id,
wait_s=...). Use it for what may take longer than {MOST_WAIT_S} s, and to start several runs together.
mode="sync" waits and answers with the finished run: nothing is left to be asked then. After {MOST_WAIT_S} s it answers
with the run as it stands, which goes on; go on with get_run.

A failed run is no error of this tool: look at status and error_message. Give an idempotency_key when you may have to
repeat the call: the same key with the same arguments never runs twice.""",
        arguments=RunProject,
        answer=RunView,
        call=_run,
        waits_s=sync_wait_s,
        is_open_world=True,
    ),
    Tool(
        name="cancel_run",
        title="Cancel a run",
        description="""\
Ask for a run to be cancelled, by its run_id or the first digits of it, and answer with the run as it stands.

Use it when the user wants a run stopped. Its worker needs a moment: get_run with wait_s tells when it has ended.
A run that has ended already stays as it is, so a repeat does no harm.""",
        arguments=CancelRun,
        answer=RunView,
        call=_cancel_run,
        is_destructive=True,
        is_idempotent=True,
    ),
)
TOOLS: Final[Mapping[str, Tool]] = {tool.name: tool for tool in _TOOLS}
