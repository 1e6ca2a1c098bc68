"""The Tasks extension (SEP-2663), driven by the SDK's own hooks for client extensions."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from mcp.client import ClientExtension
from mcp.client.extension import ClaimContext, ResultClaim, advertise
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Request, RequestParams, Result

from tests.cli.processes import started
from tests.mcp.agents import RUN_FIELDS, Agent, Site, Transport

pytestmark = pytest.mark.timeout(120)
EXTENSION = "io.modelcontextprotocol/tasks"
BOTH = pytest.mark.parametrize("transport", ["http", "stdio"])


class TaskParams(RequestParams):
    task_id: str
    input_responses: dict[str, Any] | None = None


class TaskRequest(Request[TaskParams, str]):
    name_param = "taskId"


class Detailed(Result):
    result_type: str
    task_id: str = ""
    status: str = ""
    status_message: str | None = None
    created_at: str = ""
    last_updated_at: str = ""
    ttl_ms: int | None = 0
    poll_interval_ms: int = 0
    result: dict[str, Any] | None = None


class Created(Result):
    result_type: Literal["task"]
    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None = 0
    poll_interval_ms: int = 0


class TakesTasks(ClientExtension):
    """Takes tasks, and waits for their ends by asking again and again, as a host does."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.created: list[Created] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Created, resolve=self._resolve)]

    async def _resolve(self, created: Created, context: ClaimContext) -> CallToolResult:
        self.created.append(created)
        while True:
            task = await context.session.send_request(request("tasks/get", created.task_id), Detailed)
            if task.status != "working":
                return CallToolResult.model_validate(task.result)
            await asyncio.sleep(task.poll_interval_ms / 1000)


def request(method: str, task_id: str) -> TaskRequest:
    return TaskRequest(method=method, params=TaskParams(task_id=task_id))


async def ask(agent: Agent, method: str, task_id: str) -> Detailed:
    return await agent.client.session.send_request(request(method, task_id), Detailed)


async def until_over(agent: Agent, task_id: str) -> Detailed:
    async with asyncio.timeout(50):
        while (task := await ask(agent, "tasks/get", task_id)).status == "working":
            pass
    return task


@BOTH
@pytest.mark.parametrize("mode", [{}, {"mode": "sync"}])
async def test_a_host_that_takes_tasks_gets_one_for_a_run_and_its_result_in_the_end(
    site: Site, transport: Transport, mode: dict[str, str]
) -> None:
    takes = TakesTasks()
    async with site.agent(transport, extensions=(takes,)) as agent:
        run = await agent.call("run", project_name="models", inputs={"outputs": {"a": 1}}, **mode)

    assert tuple(run) == RUN_FIELDS
    assert (run["status"], run["output"]["outputs"]) == ("success", {"a": 1})
    assert [(task.task_id, task.status, task.ttl_ms) for task in takes.created] == [(run["run_id"], "working", None)]


async def test_an_async_run_is_answered_as_it_stands_also_for_a_host_that_takes_tasks(site: Site) -> None:
    takes = TakesTasks()
    async with site.agent(extensions=(takes,)) as agent:
        run = await agent.call("run", project_name="models", mode="async")

    assert (tuple(run), takes.created) == (RUN_FIELDS, [])


@BOTH
async def test_a_task_tells_how_its_run_goes_on(site: Site, transport: Transport) -> None:
    async with site.agent(transport, extensions=(advertise(EXTENSION),)) as agent:
        asked = await agent.call("run", project_name="models", inputs={"until": str(site.gate())}, mode="async")
        working = await ask(agent, "tasks/get", asked["run_id"])
        update = await ask(agent, "tasks/update", asked["run_id"])
        site.gate().touch()
        over = await until_over(agent, asked["run_id"])

    assert (working.task_id, working.status, working.result) == (asked["run_id"], "working", None)
    assert (working.result_type, update.result_type, update.task_id) == ("complete", "complete", "")
    assert over.status == "completed"
    assert over.created_at == working.created_at <= over.last_updated_at
    assert over.result is not None
    assert over.result["structuredContent"] == site.dev.ask(f"/v1/runs/{asked['run_id']}")[1]


@BOTH
async def test_a_run_that_failed_is_a_completed_task_whose_result_says_so(site: Site, transport: Transport) -> None:
    async with site.agent(transport, extensions=(advertise(EXTENSION),)) as agent:
        asked = await agent.call("run", project_name="models", inputs={"fail": 1}, mode="async")
        over = await until_over(agent, asked["run_id"])

    assert over.status == "completed"
    assert over.result is not None
    assert over.result["structuredContent"]["status"] == "failed"
    assert over.status_message == over.result["structuredContent"]["error_message"]


@BOTH
async def test_a_cancelled_task_is_a_cancelled_run(site: Site, transport: Transport) -> None:
    async with site.agent(transport, extensions=(advertise(EXTENSION),)) as agent:
        asked = await agent.call("run", project_name="models", inputs={"until": str(site.gate())}, mode="async")
        said = await ask(agent, "tasks/cancel", asked["run_id"])
        over = await until_over(agent, asked["run_id"])
        again = await ask(agent, "tasks/cancel", asked["run_id"])

    assert said.result_type == again.result_type == "complete"
    assert (over.status, over.result) == ("cancelled", None)
    assert site.dev.ask(f"/v1/runs/{asked['run_id']}")[1]["status"] == "cancelled"


@BOTH
@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_a_task_that_there_is_not_and_a_client_that_takes_none_are_told(
    site: Site, transport: Transport, method: str
) -> None:
    async with site.agent(transport, extensions=(advertise(EXTENSION),)) as agent:
        with pytest.raises(MCPError) as unknown:
            await ask(agent, method, "00000000-0000-0000-0000-000000000000")
    async with site.agent(transport) as agent:
        with pytest.raises(MCPError) as undeclared:
            await ask(agent, method, "00000000-0000-0000-0000-000000000000")
    async with site.agent(transport, "2025-11-25") as agent:
        with pytest.raises(MCPError) as older:
            await ask(agent, method, "00000000-0000-0000-0000-000000000000")

    assert (unknown.value.code, unknown.value.data["error"]) == (-32602, "run_not_found")
    assert undeclared.value.code == -32021
    assert undeclared.value.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    assert older.value.code == -32601


async def test_a_task_is_out_of_reach_where_its_run_is(site: Site) -> None:
    token = site.make_token("only-models", "--project", "models")
    async with site.agent(extensions=(advertise(EXTENSION),)) as agent:
        asked = await agent.call("run", project_name="secrets", mode="async")
        reached = await agent.call("run", project_name="models", mode="async")
    async with site.agent(token=token, extensions=(advertise(EXTENSION),)) as agent:
        with pytest.raises(MCPError) as hidden:
            await ask(agent, "tasks/get", asked["run_id"])
        own = await ask(agent, "tasks/get", reached["run_id"])
        with pytest.raises(MCPError) as forbidden:
            await ask(agent, "tasks/cancel", own.task_id)

    assert hidden.value.code == -32602
    assert forbidden.value.data["error"] == "forbidden"


async def test_any_gateway_answers_for_any_task(site: Site) -> None:
    redis_url = str(site.dev.said["redis_url"])
    async with site.agent(extensions=(advertise(EXTENSION),)) as agent:
        asked = await agent.call("run", project_name="models", mode="async")
        with started("gateway", "--port", "0", "--redis-url", redis_url, folder=site.folder) as other:
            there = Site(other, site.folder)
            async with there.agent(token=site.dev.token, extensions=(advertise(EXTENSION),)) as elsewhere:
                over = await until_over(elsewhere, asked["run_id"])

    assert over.status == "completed"
