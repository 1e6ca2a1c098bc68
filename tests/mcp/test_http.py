"""`POST /mcp` as a request like any other: credentials, origins, limits, and what is no message."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runstore.core.principal import Scope
from tests.gateway.builders import ADMIN, Reply, site_over
from tests.gateway.builders import Site as Gateways
from tests.mcp.agents import RUN_FIELDS
from tests.waiting import happens

ACCEPT = {"Accept": "application/json, text/event-stream"}


def message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return message("tools/call", name=tool, arguments=arguments)


async def post(gateways: Gateways, body: Any, *, headers: dict[str, str] | None = None, **options: Any) -> Reply:
    return await gateways.post("/mcp", body, headers={**ACCEPT, **(headers or {})}, **options)


def result_of(reply: Reply) -> Any:
    """The result in an answer or in a stream of events."""
    assert reply.status == 200, reply.body
    text = reply.body.decode()
    if reply.headers["Content-Type"].startswith("text/event-stream"):
        text = [line for line in text.splitlines() if line.startswith("data: {")][-1].removeprefix("data: ")
    return json.loads(text)["result"]


async def test_nobody_is_served_without_a_valid_token(gateways: Gateways) -> None:
    without = await post(gateways, message("tools/list"), token=None)
    wrong = await post(gateways, message("tools/list"), token="wrong")

    for reply in (without, wrong):
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_revoked_token_is_shut_out_from_the_next_message_on(gateways: Gateways) -> None:
    token = await gateways.token(Scope.READ)
    before = await post(gateways, message("tools/list"), token=token)
    await gateways.store.tokens.revoke(token)

    while (reply := await post(gateways, message("tools/list"), token=token)).status == 200:
        pass

    assert (len(result_of(before)["tools"]), reply.status) == (5, 401)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.READ, {"get_run", "get_run_output", "list_runs"}),
        (Scope.WRITE, {"run", "cancel_run"}),
        (Scope.PUBLISH, set()),
        (Scope.ADMIN, {"get_run", "get_run_output", "list_runs", "run", "cancel_run"}),
    ],
)
async def test_each_scope_opens_the_tools_that_it_opens_over_http(
    gateways: Gateways, scope: Scope, allowed: set[str]
) -> None:
    run_id = await gateways.publish(status="success", output={})
    token = await gateways.token(scope)
    calls = {
        "get_run": {"run_id": run_id},
        "get_run_output": {"run_id": run_id},
        "list_runs": {},
        "run": {"project_name": "forecasts"},
        "cancel_run": {"run_id": run_id},
    }

    results = {name: result_of(await post(gateways, call(name, **given), token=token)) for name, given in calls.items()}

    assert {name for name, result in results.items() if not result["isError"]} == allowed
    refused = [result["structuredContent"] for name, result in results.items() if name not in allowed]
    assert all(one["error"] == "forbidden" and "lacks the scope" in one["message"] for one in refused)


async def test_a_run_out_of_reach_is_told_as_one_that_does_not_exist(gateways: Gateways) -> None:
    hidden = await gateways.publish("abcd0000-0000-4000-8000-000000000001", project_name="secrets")
    seen = await gateways.publish("abcd0000-0000-4000-8000-000000000002")
    token = await gateways.token(Scope.READ, Scope.WRITE, projects=("forecasts",))

    async def ask(tool: str, **given: Any) -> Any:
        return result_of(await post(gateways, call(tool, **given), token=token))["structuredContent"]

    assert (await ask("get_run", run_id=hidden))["error"] == "run_not_found"
    assert (await ask("get_run_output", run_id=hidden))["error"] == "run_not_found"
    assert (await ask("cancel_run", run_id=hidden))["error"] == "run_not_found"
    assert (await ask("get_run", run_id="abcd"))["run_id"] == seen
    assert [run["run_id"] for run in (await ask("list_runs"))["runs"]] == [seen]
    assert (await ask("list_runs", project_name="secrets"))["runs"] == []
    assert (await ask("run", project_name="secrets"))["error"] == "forbidden"


async def test_the_answer_is_the_one_of_http_byte_for_byte(gateways: Gateways) -> None:
    output = {"exit_code": 0, "stdout": "é" * 700_000, "outputs": {"big": 2**70, "f": 1.0, "n": None}}
    run_id = await gateways.publish(status="success", output=output)

    text = result_of(await post(gateways, call("get_run", run_id=run_id)))["content"][0]["text"]

    assert text.encode() == (await gateways.get(f"/v1/runs/{run_id}")).body
    assert tuple(json.loads(text)) == RUN_FIELDS
    assert json.loads(text)["truncated"]


async def test_an_output_over_the_limit_of_a_tool_is_told_with_its_address(gateways: Gateways) -> None:
    run_id = await gateways.publish(status="success", output={"outputs": {"a b": "x" * (8 * 1024 * 1024), "c": 1}})

    whole = result_of(await post(gateways, call("get_run_output", run_id=run_id)))["structuredContent"]
    named = result_of(await post(gateways, call("get_run_output", run_id=run_id, output_name="a b")))[
        "structuredContent"
    ]
    other = result_of(await post(gateways, call("get_run_output", run_id=run_id, output_name="c")))["structuredContent"]

    assert (whole["error"], named["error"], other["value"]) == ("payload_too_large", "payload_too_large", 1)
    assert f"GET /v1/runs/{run_id}/output/a%20b" in named["message"]


async def test_a_sync_run_that_takes_too_long_is_answered_as_it_stands(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.mcp.tools.MOST_WAIT_S", 0.05)

    run = result_of(await post(gateways, call("run", project_name="forecasts", mode="sync")))["structuredContent"]

    assert (tuple(run), run["status"]) == (RUN_FIELDS, "pending")


async def test_a_wait_ends_when_the_token_is_revoked(gateways: Gateways) -> None:
    run_id = await gateways.publish()
    token = await gateways.token(Scope.READ)
    headers = {**ACCEPT, "Authorization": f"Bearer {token}"}
    body = msgspec.json.encode(call("get_run", run_id=run_id, wait_s=50) | {"id": "w"})
    async with gateways.session.post(gateways.gateway.url + "/mcp", data=body, headers=headers) as answer:
        await gateways.store.tokens.revoke(token)
        text = await answer.text()

    assert '"error":"unauthorized"' in text.replace("\\", "").replace(" ", "")


async def test_a_trace_goes_on_in_the_run(gateways: Gateways) -> None:
    told = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    other = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    message = call("run", project_name="forecasts")
    message["params"]["_meta"] = {"traceparent": told}
    runs = [
        result_of(await post(gateways, message, headers={"traceparent": other})),
        result_of(await post(gateways, call("run", project_name="forecasts"), headers={"traceparent": other})),
    ]

    kept = [await gateways.gateway.services.lookup.record(run["structuredContent"]["run_id"]) for run in runs]

    assert [record.run.traceparent for record in kept if record is not None] == [told, other]


async def test_a_foreign_origin_is_refused_and_an_allowed_one_may_ask_beforehand(gateways: Gateways) -> None:
    page = "https://runs.example"
    foreign = await post(gateways, message("tools/list"), headers={"Origin": page})
    async with site_over(gateways.store, allowed_origins=frozenset({page})) as other:
        asked = await other.call(
            "OPTIONS", "/mcp", token=None, headers={"Origin": page, "Access-Control-Request-Method": "POST"}
        )
        allowed = await post(other, message("tools/list"), headers={"Origin": page})

    assert (foreign.status, foreign.code) == (403, "forbidden")
    wanted = {"authorization", "content-type", "mcp-protocol-version", "mcp-method", "mcp-name"}
    assert wanted <= {name.strip().lower() for name in asked.headers["Access-Control-Allow-Headers"].split(",")}
    assert (allowed.status, allowed.headers["Access-Control-Allow-Origin"]) == (200, page)


async def test_a_message_past_a_limit_is_refused_as_on_every_address(gateways: Gateways) -> None:
    large = await gateways.post(
        "/mcp", data=b"x" * (gateways.gateway.services.config.max_run_body_bytes + 1), headers=ACCEPT
    )
    deep = await gateways.post("/mcp", data=b"[" * 100 + b"]" * 100, headers=ACCEPT)
    nested: Any = 1
    for _ in range(64):
        nested = {"a": nested}
    inputs = result_of(await post(gateways, call("run", project_name="forecasts", inputs=nested)))["structuredContent"]
    fits = result_of(await post(gateways, call("run", project_name="forecasts", inputs=nested["a"])))

    assert (large.status, large.code) == (413, "payload_too_large")
    assert (deep.status, deep.code) == (422, "invalid_request")
    assert (inputs["error"], "64 levels" in inputs["message"]) == ("invalid_request", True)
    assert not fits["isError"]


async def test_inputs_over_their_limit_are_refused_as_over_http(gateways: Gateways) -> None:
    inputs = {"a": "x" * (1024 * 1024)}

    told = result_of(await post(gateways, call("run", project_name="forecasts", inputs=inputs)))["structuredContent"]

    assert (told["error"], "over the limit" in told["message"]) == ("payload_too_large", True)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": "\xff"}'])
async def test_what_is_no_json_is_a_parse_error(gateways: Gateways, text: bytes) -> None:
    reply = await gateways.post("/mcp", data=text, headers=ACCEPT)

    assert reply.status == 400
    assert (reply.json()["error"]["code"], reply.json()["id"]) == (-32700, None)


@pytest.mark.parametrize("body", [[], 1, {}, {"jsonrpc": "2.0", "id": 1}, [message("tools/list")]])
@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28", "1999-01-01", "é"])
async def test_what_is_no_message_is_a_4xx(gateways: Gateways, body: Any, version: str) -> None:
    reply = await post(gateways, body, headers={"MCP-Protocol-Version": version})

    assert 400 <= reply.status < 500


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_there_is_nothing_but_post(gateways: Gateways, method: str) -> None:
    reply = await gateways.call(method, "/mcp", headers={"Accept": "text/event-stream"})

    assert (reply.status, reply.headers["Allow"]) == (405, "POST")


async def test_a_notification_is_taken(gateways: Gateways) -> None:
    body = {"jsonrpc": "2.0", "method": "notifications/initialized"}

    assert [(await post(gateways, body, headers={"MCP-Protocol-Version": era})).status for era in ("2025-11-25",)] == [
        202
    ]
    assert (await post(gateways, body, headers={"MCP-Protocol-Version": "2026-07-28"})).status == 202


async def test_no_session_is_given_and_none_is_needed(gateways: Gateways) -> None:
    hello = message(
        "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "a", "version": "1"}
    )

    reply = await post(gateways, hello)
    listed = await post(gateways, message("tools/list"), headers={"MCP-Protocol-Version": "2025-11-25"})

    assert result_of(reply)["protocolVersion"] == "2025-11-25"
    assert "Mcp-Session-Id" not in reply.headers
    assert len(result_of(listed)["tools"]) == 5


async def test_a_gateway_stops_while_an_agent_waits_and_answers_it_first(gateways: Gateways) -> None:
    run_id = await gateways.publish()
    async with site_over(gateways.store) as other:
        body = msgspec.json.encode(call("get_run", run_id=run_id, wait_s=50))
        headers = {**ACCEPT, "Authorization": f"Bearer {ADMIN}"}
        async with other.session.post(other.gateway.url + "/mcp", data=body, headers=headers) as answer:
            await other.gateway.stop()
            text = await answer.text()

    assert '"status":"running"' in text.replace("\\", "").replace(" ", "")


async def test_without_the_extra_the_address_says_what_to_install(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("runstore.mcp.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp_types", None)

    reply = await post(gateways, message("tools/list"))

    assert (reply.status, reply.code) == (404, "not_found")
    assert "pip install 'runstore[mcp]'" in reply.json()["detail"]


def test_a_gateway_and_a_command_are_imported_without_the_sdk() -> None:
    code = "import sys, runstore.gateway, runstore.cli.app; print({'mcp', 'pydantic', 'starlette'} & set(sys.modules))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert told.stdout.strip() == "set()"


def test_the_readmes_install_has_the_extra() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]

    assert "runstore[mcp]" in extras["embedded"]


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
async def test_nothing_goes_on_here_for_an_agent_that_hung_up(gateways: Gateways, era: str) -> None:
    run_id = await gateways.publish()
    hub = gateways.gateway.services.tail.hub
    body = call("get_run", run_id=run_id, wait_s=50)
    headers = {"MCP-Protocol-Version": era}
    if era == "2026-07-28":
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "get_run"}
        body["params"]["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": era,
            "io.modelcontextprotocol/clientCapabilities": {},
        }

    asking = asyncio.create_task(post(gateways, body, headers=headers))
    await happens(lambda: hub.interests == 1)
    asking.cancel()
    await happens(lambda: hub.interests == 0)

    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "mcp-progress" not in names


async def test_a_run_token_is_for_looking_at_its_run_and_opens_no_tools(gateways: Gateways) -> None:
    run_id = await gateways.publish()
    made = (await gateways.post(f"/v1/runs/{run_id}/token")).json()["token"]

    reply = await post(gateways, message("tools/list"), token=made)

    assert (reply.status, reply.code) == (403, "forbidden")


async def test_the_document_tells_how_a_message_that_cannot_be_taken_is_refused(gateways: Gateways) -> None:
    document = (await gateways.get("/v1/openapi.json")).json()

    reply = await post(gateways, {"jsonrpc": "", "method": ""})

    told = document["paths"]["/mcp"]["post"]["responses"][str(reply.status)]["content"]
    assert reply.headers["Content-Type"] == "application/json"
    assert told["application/json"]["schema"] == {"$ref": "#/components/schemas/McpError"}
    assert set(document["components"]["schemas"]["McpError"]["required"]) <= set(reply.json())
