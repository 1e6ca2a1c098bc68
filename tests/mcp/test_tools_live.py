"""The tools as agents use them: real processes, both transports, both eras of the protocol."""

import asyncio
import json
from base64 import b64decode
from itertools import pairwise, product
from typing import Any
from uuid import uuid4

import pytest

from tests.mcp.agents import RUN_FIELDS, Agent, Era, Site, Transport

pytestmark = pytest.mark.timeout(120)
TRANSPORTS: tuple[Transport, ...] = ("http", "stdio")
ERAS: tuple[Era, ...] = ("2025-11-25", "2026-07-28")
EVERYWHERE = pytest.mark.parametrize(("transport", "era"), list(product(TRANSPORTS, ERAS)))
BOTH = pytest.mark.parametrize("transport", TRANSPORTS)


async def until_running(agent: Agent, run_id: str) -> None:
    async with asyncio.timeout(40):
        while (await agent.call("get_run", run_id=run_id))["status"] != "running":
            pass


@EVERYWHERE
async def test_an_agent_hears_of_five_tools_and_which_of_them_change_nothing(
    site: Site, transport: Transport, era: Era
) -> None:
    async with site.agent(transport, era) as agent:
        listed = (await agent.client.list_tools()).tools

        assert agent.client.protocol_version == era
        assert [tool.name for tool in listed] == ["get_run", "get_run_output", "list_runs", "run", "cancel_run"]
        hints = {tool.name: tool.annotations for tool in listed}
        assert [name for name, hint in hints.items() if hint and hint.read_only_hint] == [
            *("get_run", "get_run_output", "list_runs")
        ]
        assert [name for name, hint in hints.items() if hint and not hint.idempotent_hint] == ["run"]
        assert [name for name, hint in hints.items() if hint and hint.destructive_hint] == ["cancel_run"]
        assert all(tool.output_schema and tool.output_schema["type"] == "object" for tool in listed)
        assert "run(mode=" in (agent.client.instructions or "")


@EVERYWHERE
async def test_a_sync_run_answers_with_the_finished_run_as_http_shows_it(
    site: Site, transport: Transport, era: Era
) -> None:
    async with site.agent(transport, era) as agent:
        result = await agent.result(
            "run", project_name="models", inputs={"outputs": {"revenue": [1, 2.5]}}, mode="sync"
        )

    run = result.structured_content
    assert isinstance(run, dict)
    assert tuple(run) == RUN_FIELDS
    assert (run["status"], run["output"]["outputs"]) == ("success", {"revenue": [1, 2.5]})
    assert run == site.dev.ask(f"/v1/runs/{run['run_id']}")[1]
    assert [json.loads(block.text) for block in result.content if block.type == "text"] == [run]


@BOTH
async def test_a_run_that_failed_is_an_answer_and_no_error(site: Site, transport: Transport) -> None:
    async with site.agent(transport) as agent:
        run = await agent.call("run", project_name="models", inputs={"fail": 3}, mode="sync")

    assert (run["status"], run["output"]) == ("failed", None)
    assert "3" in run["error_message"]


@EVERYWHERE
async def test_an_async_run_is_awaited_by_get_run_from_a_prefix_on(site: Site, transport: Transport, era: Era) -> None:
    async with site.agent(transport, era) as agent:
        asked = await agent.call("run", project_name="models", inputs={"until": str(site.gate())}, mode="async")
        prefix = asked["run_id"].replace("-", "")[:20].upper()
        at_once = await agent.call("get_run", run_id=prefix)
        waiting = asyncio.create_task(agent.call("get_run", run_id=prefix, wait_s=50))
        await until_running(agent, asked["run_id"])
        assert not waiting.done()
        site.gate().touch()
        run = await waiting

    assert asked["status"] in {"pending", "running"}
    assert tuple(at_once) == tuple(run) == RUN_FIELDS
    assert (run["run_id"], run["status"]) == (asked["run_id"], "success")


@BOTH
async def test_who_waits_hears_how_the_run_goes_on(site: Site, transport: Transport) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))
        if message == "running":
            site.gate().touch()

    async with site.agent(transport) as agent:
        result = await agent.client.call_tool(
            "run",
            {"project_name": "models", "inputs": {"until": str(site.gate())}, "mode": "sync"},
            progress_callback=hear,
        )

    assert result.structured_content["status"] == "success"
    assert "running" in [message for _, _, message in heard]
    assert all(before < after for (before, _, _), (after, _, _) in pairwise(heard))
    assert {total for _, total, _ in heard} == {50}


@BOTH
async def test_a_wait_ends_when_somebody_cancels_the_run(site: Site, transport: Transport) -> None:
    async with site.agent(transport) as agent, site.agent("http", "2025-11-25") as other:
        asked = await agent.call("run", project_name="models", inputs={"until": str(site.gate())})
        await until_running(agent, asked["run_id"])
        waiting = asyncio.create_task(agent.call("get_run", run_id=asked["run_id"], wait_s=50))
        cancelled = await other.call("cancel_run", run_id=asked["run_id"][:13])
        run = await waiting
        again = await agent.call("cancel_run", run_id=asked["run_id"])

    assert tuple(cancelled) == RUN_FIELDS
    assert run["status"] == "cancelled"
    assert again == run


@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_that_gives_a_call_up_leaves_the_run_alone_and_can_go_on(site: Site, era: Era) -> None:
    async with site.agent("http", era) as agent:
        asked = await agent.call("run", project_name="models", inputs={"until": str(site.gate())})
        waiting = asyncio.create_task(agent.call("get_run", run_id=asked["run_id"], wait_s=50))
        await until_running(agent, asked["run_id"])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        site.gate().touch()
        run = await agent.call("get_run", run_id=asked["run_id"], wait_s=50)

    assert run["status"] == "success"


OUTPUTS = {"text": "größer\n", "table": [{"a": None}], "empty": ""}


@BOTH
async def test_outputs_are_read_in_the_encoding_that_is_asked_for(site: Site, transport: Transport) -> None:
    async with site.agent(transport) as agent:
        run = await agent.call("run", project_name="models", inputs={"outputs": OUTPUTS}, mode="sync")

        async def read(name: str, encoding: str = "auto") -> tuple[str, Any]:
            told = await agent.call("get_run_output", run_id=run["run_id"][:8], output_name=name, encoding=encoding)
            assert (told["run_id"], told["output_name"]) == (run["run_id"], name)
            return told["encoding"], told["value"]

        assert await read("text") == ("text", "größer\n")
        assert await read("table") == ("json", [{"a": None}])
        assert await read("text", "json") == ("json", "größer\n")
        assert await read("table", "text") == ("text", '[{"a":null}]')
        assert await read("empty", "base64") == ("base64", "")
        encoding, value = await read("text", "base64")
        assert (encoding, b64decode(value).decode()) == ("base64", "größer\n")
        whole = await agent.call("get_run_output", run_id=run["run_id"])

    assert whole["value"] == run["output"]
    assert "began" in whole["value"]["stdout"]


@BOTH
async def test_a_page_of_runs_is_narrowed_and_walked(site: Site, transport: Transport) -> None:
    tag = uuid4().hex
    async with site.agent(transport) as agent:
        asked = [
            (await agent.call("run", project_name="models", inputs={"n": number}, tags=[tag, f"n{number}"]))["run_id"]
            for number in range(3)
        ]
        first = await agent.call("list_runs", project_name="models", tag=tag, limit=2)
        second = await agent.call("list_runs", project_name="models", tag=[tag], limit=2, cursor=first["next_cursor"])
        one = await agent.call("list_runs", tag=[tag, "n1"])
        none = await agent.call("list_runs", tag=tag, status="timed_out", commit_sha="abc")

    assert [run["run_id"] for run in first["runs"] + second["runs"]] == asked[::-1]
    assert second["next_cursor"] is None
    assert [run["run_id"] for run in one["runs"]] == [asked[1]]
    assert tuple(one["runs"][0]) == (*(name for name in RUN_FIELDS if name != "output"), "created_at", "tags")
    assert none == {"runs": [], "next_cursor": None}


@BOTH
async def test_the_same_key_never_runs_twice(site: Site, transport: Transport) -> None:
    key = uuid4().hex
    async with site.agent(transport) as agent:
        first = await agent.call("run", project_name="models", inputs={"a": 1}, idempotency_key=key)
        again = await agent.call("run", project_name="models", parameters={"a": 1}, idempotency_key=key)
        other = await agent.fail("run", project_name="models", inputs={"a": 2}, idempotency_key=key)

    assert again["run_id"] == first["run_id"]
    assert other["error"] == "idempotency_conflict"


@BOTH
async def test_ten_agents_are_served_at_one_time(site: Site, transport: Transport) -> None:
    async def work(number: int) -> tuple[str, Any]:
        async with site.agent(transport, ERAS[number % 2]) as agent:
            asked = await agent.call("run", project_name="models", inputs={"outputs": {"n": number}})
            run = await agent.call("get_run", run_id=asked["run_id"], wait_s=50)
            return run["status"], run["output"]["outputs"]["n"]

    assert await asyncio.gather(*map(work, range(10))) == [("success", number) for number in range(10)]


MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("get_run", {"run_id": "zz"}, "invalid_run_id", "at least 4"),
    ("get_run", {"run_id": "00000000-0000-0000-0000-000000000000"}, "run_not_found", "no run matches"),
    ("get_run", {"run": "6666"}, "invalid_request", "did you mean 'run_id'?"),
    ("get_run", {}, "invalid_request", "run_id"),
    ("get_run", {"run_id": "6666", "wait_s": 51}, "invalid_request", "50"),
    ("get_run", {"run_id": "6666", "wait_s": "long"}, "invalid_request", "wait_s"),
    ("get_run_output", {"run_id": "6666", "encoding": "hex"}, "invalid_request", "encoding"),
    ("list_runs", {"status": "sucess"}, "invalid_request", "status"),
    ("list_runs", {"limit": 0}, "invalid_request", "limit"),
    ("list_runs", {"cursor": "AAAA"}, "invalid_request", "next_cursor"),
    ("list_runs", {"created_after": "soon"}, "invalid_request", "ISO 8601"),
    ("run", {"project_name": "nobody-serves-this"}, "unknown_project", "nobody-serves-this"),
    ("run", {"project_name": "models", "inputs": {}, "parameters": {}}, "invalid_request", "give one of them"),
    ("run", {"project_name": "models", "idempotency_key": "a b"}, "invalid_request", "no spaces"),
    ("run", {"project_name": "models", "idempotency_key": "a\n"}, "invalid_request", "no spaces"),
    ("run", {"project_name": "models", "branch": "-x"}, "invalid_request", "branch"),
    ("cancel_run", {"run_id": "12"}, "invalid_run_id", "at least 4"),
]


@BOTH
async def test_a_mistake_is_told_so_that_an_agent_can_mend_it(site: Site, transport: Transport) -> None:
    async with site.agent(transport) as agent:
        for tool, arguments, error, sentence in MISTAKES:
            result = await agent.result(tool, **arguments)

            told = result.structured_content
            assert result.is_error
            assert list(told) == ["error", "message", "hint"]
            assert (told["error"], sentence in told["message"]) == (error, True), told
            assert json.loads(result.content[0].text) == told


@BOTH
async def test_an_output_that_is_not_there_is_told_with_the_reason(site: Site, transport: Transport) -> None:
    async with site.agent(transport) as agent:
        run = await agent.call("run", project_name="models", mode="sync")
        unknown = await agent.fail("get_run_output", run_id=run["run_id"], output_name="profit")
        waiting = await agent.call("run", project_name="models", inputs={"until": str(site.gate())})
        early = await agent.fail("get_run_output", run_id=waiting["run_id"])
        site.gate().touch()

    assert unknown["error"] == early["error"] == "output_not_found"
    assert ("profit" in unknown["message"], "has not ended" in early["message"]) == (True, True)


async def test_an_ambiguous_prefix_names_the_runs_that_it_begins(site: Site) -> None:
    ids = [f"abcd{number}{uuid4().hex[5:]}" for number in range(2)]
    for run_id in ids:
        site.dev.ask(f"/v1/runs/{run_id}/transitions", {"status": "running", "project_name": "elsewhere"})
    async with site.agent("http") as agent, site.agent("stdio") as other:
        told = [await agent.fail("get_run", run_id="abcd"), await other.fail("get_run", run_id="ABCD")]

    for one in told:
        assert one["error"] == "ambiguous_run_id"
        assert sorted(name.replace("-", "") for name in one["candidates"]) == sorted(ids)
