"""Each route by each credential, generated from the table of routes: who is let in, and what of others' runs shows.

Nothing here knows a route by itself but for the body that it takes: a new route is tested from the day it is in the
table.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from runstore.gateway.route import Route
from runstore.gateway.routes import ROUTES
from runstore.projector import Projector
from tests.gateway.builders import Reply, StandIn, site_over
from tests.gateway.credentials import CREDENTIALS, MINE, OTHERS, Credential, Stage, stage_over
from tests.gateway.issuer import issuing

GUARDED = [route for route in ROUTES if not route.is_open]
OF_A_RUN = [route for route in GUARDED if "{run_id}" in route.path]
BODIES: dict[str, Any] = {
    "post_run": {"project_name": MINE},
    "post_cancel": None,
    "post_run_token": None,
    "post_transition": {"status": "running"},
    "post_mcp": {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
}
MCP_ACCEPTS = {"Accept": "application/json, text/event-stream"}
BOUND = [each for each in CREDENTIALS if each.is_valid and not each.reaches(OTHERS) and each.scopes]


@pytest.fixture
async def stage(gateway_store: StandIn) -> AsyncIterator[Stage]:
    async with (
        issuing() as issuer,
        Projector(gateway_store.redis),
        site_over(gateway_store, jwt=issuer.config()) as door,
    ):
        yield await stage_over(door, issuer)


def named(route: Route) -> str:
    return route.handler.__name__


async def call(stage: Stage, route: Route, token: str | None, run_id: str, **headers: str) -> Reply:
    path = route.path.replace("{run_id}", run_id).replace("{name}", "revenue")
    if not route.is_websocket:
        body = BODIES[named(route)] if route.method == "POST" else None
        headers = headers or (MCP_ACCEPTS if named(route) == "post_mcp" else {})
        return await stage.site.call(route.method, path, token=token, json=body, headers=headers)
    offered = ["runstore.v1", *([f"runstore.bearer.{token}"] if token is not None else [])]
    try:
        async with stage.site.session.ws_connect(stage.site.gateway.url + path, protocols=offered):
            return Reply(101, {}, b"{}")
    except aiohttp.WSServerHandshakeError as refused:
        code = {401: "unauthorized", 403: "forbidden"}.get(refused.status)
        return Reply(refused.status, refused.headers, json.dumps({"code": code}).encode())


def told(route: Route, reply: Reply) -> str:
    """Say in a word what became of a call."""
    if reply.status in {one.status for one in route.replies}:
        return "let in"
    return reply.code


def expected(route: Route, credential: Credential, stage: Stage, run_id: str) -> str:
    """Say what must become of a call."""
    if not credential.is_valid:
        return "unauthorized"
    if (credential.run is not None and not route.for_run_token) or not credential.may(route.scope):
        return "forbidden"
    if "{run_id}" in route.path and not credential.sees(stage, run_id):
        return "run_not_found"
    if named(route) == "post_run" and not credential.reaches(MINE):
        return "forbidden"
    return "let in"


@pytest.mark.parametrize("credential", CREDENTIALS, ids=lambda each: each.name)
async def test_each_route_lets_in_whom_the_table_says_and_nobody_else(stage: Stage, credential: Credential) -> None:
    token = await credential.get(stage)

    answered, meant = {}, {}
    for route in GUARDED:
        for run in ("mine", "others") if route in OF_A_RUN else ("mine",):
            run_id = getattr(stage, run)
            answered[named(route), run] = told(route, await call(stage, route, token, run_id))
            meant[named(route), run] = expected(route, credential, stage, run_id)

    assert answered == meant


@pytest.mark.parametrize("credential", CREDENTIALS, ids=lambda each: each.name)
async def test_streams_heads_and_prefixes_are_let_in_as_the_plain_answer_is(
    stage: Stage, credential: Credential
) -> None:
    token = await credential.get(stage)

    for route in OF_A_RUN:
        if route.method != "GET":
            continue
        plain = await call(stage, route, token, stage.mine)
        head = await stage.site.call(
            "HEAD", route.path.replace("{run_id}", stage.mine).replace("{name}", "revenue"), token=token
        )
        prefix = await call(stage, route, token, stage.mine[:13])
        assert (head.status, prefix.status) == (plain.status, plain.status), named(route)
        if any(reply.stream for reply in route.replies):
            stream = await call(stage, route, token, stage.mine, Accept="text/event-stream")
            assert stream.status == plain.status, named(route)


@pytest.mark.parametrize("credential", BOUND, ids=lambda each: each.name)
async def test_a_run_out_of_reach_is_answered_as_one_that_does_not_exist(stage: Stage, credential: Credential) -> None:
    """In the same words, with the same headers and by the same questions to the store: its time tells nothing."""
    token = await credential.get(stage)
    nobodys = "0f0f0f0f" + stage.others[8:]
    etag = (await stage.site.get(f"/v1/runs/{stage.others}")).headers["ETag"]
    counted = stage.site.store.runs

    for route in OF_A_RUN:
        seen = {}
        for run_id in (stage.others, nobodys):
            before = counted.asked
            reply = await call(stage, route, token, run_id, **{"If-None-Match": etag})
            headers = {name for name in reply.headers if name != "Date"}
            seen[run_id] = reply.status, reply.body.replace(run_id.encode(), b""), headers, counted.asked - before
        assert seen[stage.others] == seen[nobodys], named(route)


@pytest.mark.parametrize("credential", BOUND, ids=lambda each: each.name)
async def test_an_event_for_a_run_out_of_reach_is_refused_whichever_project_it_names(
    stage: Stage, credential: Credential
) -> None:
    token = await credential.get(stage)
    before = (await stage.site.get(f"/v1/runs/{stage.others}/events")).json()

    for named_project in (MINE, OTHERS, "else", None):
        event = {"status": "failed", **({"project_name": named_project} if named_project else {})}
        reply = await stage.site.post(f"/v1/runs/{stage.others}/transitions", event, token=token)
        assert reply.code in {"run_not_found", "forbidden"}

    assert (await stage.site.get(f"/v1/runs/{stage.others}/events")).json() == before


@pytest.mark.parametrize("credential", BOUND, ids=lambda each: each.name)
async def test_no_listing_candidate_or_prefix_shows_a_run_out_of_reach(stage: Stage, credential: Credential) -> None:
    token = await credential.get(stage)
    shared = stage.others[:8]

    found = await stage.site.get(f"/v1/runs/{shared}", token=token)
    listed = [
        await stage.site.get(f"/v1/runs{query}", token=token)
        for query in ("", f"?project_name={OTHERS}", "?status=success", "?limit=1", f"?project_name={MINE}")
    ]

    for reply in (found, *listed):
        assert stage.others.encode() not in reply.body
    if credential.may(ROUTES[0].scope):
        seen = [run_id for run_id in (stage.mine, stage.sibling) if credential.sees(stage, run_id)]
        assert found.status == {0: 404, 1: 200, 2: 409}[len(seen)]
        assert set(found.json().get("candidates", seen)) == set(seen)


@pytest.mark.parametrize("credential", [each for each in CREDENTIALS if each.is_valid], ids=lambda each: each.name)
async def test_a_websocket_hears_what_its_token_may_read_and_nothing_else(stage: Stage, credential: Credential) -> None:
    token = await credential.get(stage)
    if not credential.may(next(route.scope for route in GUARDED if route.is_websocket)):
        return  # not let in: see the table
    ids = {"mine": stage.mine, "sibling": stage.sibling, "others": stage.others}
    seen = {name for name, run_id in ids.items() if credential.sees(stage, run_id)}
    offered = ["runstore.v1", f"runstore.bearer.{token}"]
    heard: dict[str, list[Any]] = {}
    async with stage.site.session.ws_connect(stage.site.gateway.url + "/v1/ws", protocols=offered) as ws:

        async def ask(name: str, **asked: Any) -> None:
            await ws.send_str(json.dumps({"type": "subscribe", "id": name, "events": "all", **asked}))
            heard[name] = [json.loads((await ws.receive()).data)]

        for name, run_id in ids.items():
            await ask(f"whole {name}", run_ids=[run_id])
            if name in seen:
                heard[f"whole {name}"] += [json.loads((await ws.receive()).data) for _ in range(2)]
            await ask(f"prefix {name}", run_ids=[run_id[:13]])
            if name in seen:
                heard[f"prefix {name}"] += [json.loads((await ws.receive()).data) for _ in range(2)]
        for project_name in (MINE, OTHERS):
            await ask(project_name, project_name=project_name)

    for name, run_id in ids.items():
        whole, prefix = heard[f"whole {name}"], heard[f"prefix {name}"]
        if name in seen:
            assert [one["type"] for one in whole] == ["subscribed", "run", "done"]
            assert [one["type"] for one in prefix] == ["subscribed", "run", "done"]
        else:
            assert (len(whole), whole[0]["type"], whole[0]["unknown"]) == (1, "subscribed", [run_id])
            assert (len(prefix), prefix[0]["code"]) == (1, "run_not_found")
    for project_name in (MINE, OTHERS):
        reached = credential.reaches(project_name)
        assert heard[project_name][0].get("code") == (None if reached else "forbidden")


@pytest.mark.parametrize("credential", BOUND, ids=lambda each: each.name)
async def test_a_run_out_of_reach_is_never_pushed(stage: Stage, credential: Credential) -> None:
    token = await credential.get(stage)
    if not credential.may(next(route.scope for route in GUARDED if route.is_websocket)):
        return
    hidden = "0e0e0e0e" + stage.others[8:]
    seen = stage.mine if credential.sees(stage, stage.mine) else stage.sibling
    offered = ["runstore.v1", f"runstore.bearer.{token}"]
    async with stage.site.session.ws_connect(stage.site.gateway.url + "/v1/ws", protocols=offered) as ws:
        await ws.send_str(json.dumps({"type": "subscribe", "id": "a", "run_ids": [hidden], "events": "all"}))
        assert json.loads((await ws.receive()).data)["type"] == "subscribed"

        await stage.site.publish(hidden, status="running", project_name=OTHERS, progress={"fraction": 0.5})
        await stage.site.publish(hidden, status="success", project_name=OTHERS)
        # what is asked for after that is answered after what would have been pushed
        await ws.send_str(json.dumps({"type": "subscribe", "id": "b", "run_ids": [seen]}))
        after = json.loads((await ws.receive()).data)

    assert (after["type"], after["id"]) == ("subscribed", "b")
