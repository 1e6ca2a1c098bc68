"""Who is let in, and what is told to those who are not."""

import asyncio
import re
import time

import pytest

from runstore.core.principal import Scope
from tests.gateway.builders import ADMIN, RUN_ID, Site, site_over, until

PROTECTED = [
    "/v1/runs",
    f"/v1/runs/{RUN_ID}",
    "/v1/openapi.json",
    "/v1/nothing",
    "/v1",
    "/v1/ws",
    "/mcp",
    "/v1/runs/%ff",
]


@pytest.mark.parametrize("path", PROTECTED)
async def test_without_a_token_nothing_under_v1_answers(site: Site, path: str) -> None:
    reply = await site.get(path, token=None)

    assert (reply.status, reply.code) == (401, "unauthorized")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic abc", f"bearer {ADMIN} {ADMIN}", ADMIN, "Bearer " + "x" * 9000, "Bearer ünïcode"],
)
async def test_a_malformed_authorization_is_told_how_to_be_given(site: Site, header: str) -> None:
    reply = await site.get("/v1/runs", token=None, headers={"Authorization": header})

    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_the_scheme_may_be_written_in_any_case(site: Site) -> None:
    reply = await site.get("/v1/runs", token=None, headers={"Authorization": f"bEARER {ADMIN}"})

    assert reply.status == 200


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "bearer"])
async def test_a_token_in_the_url_is_never_taken(site: Site, name: str) -> None:
    reply = await site.get(f"/v1/runs?{name}={ADMIN}", token=None)

    assert reply.status == 401


async def test_a_token_made_a_moment_ago_is_known_at_once(site: Site) -> None:
    for _ in range(3):
        token = await site.token(Scope.READ)

        assert (await site.get("/v1/runs", token=token)).status == 200


async def test_a_revoked_token_is_shut_out_within_moments(site: Site) -> None:
    token = await site.token(Scope.READ)
    await site.get("/v1/runs", token=token)

    await site.store.tokens.revoke(token)

    async with asyncio.timeout(2):
        while (await site.get("/v1/runs", token=token)).status != 401:
            pass


async def test_an_expired_token_is_shut_out(site: Site) -> None:
    token = await site.token(Scope.READ, expires_at_s=int(time.time()) - 1)

    reply = await site.get("/v1/runs", token=token)

    assert (reply.status, "expired" in reply.json()["detail"]) == (401, True)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.READ, {"get", "list", "output"}),
        (Scope.WRITE, {"run", "cancel"}),
        (Scope.PUBLISH, {"publish"}),
        (Scope.ADMIN, {"get", "list", "output", "run", "cancel", "publish"}),
    ],
)
async def test_each_scope_opens_its_own_doors_only(site: Site, scope: Scope, allowed: set[str]) -> None:
    run_id = await site.publish(status="success", output={})
    token = await site.token(scope)
    calls = {
        "get": site.get(f"/v1/runs/{run_id}", token=token),
        "list": site.get("/v1/runs", token=token),
        "output": site.get(f"/v1/runs/{run_id}/output", token=token),
        "run": site.post("/v1/runs", {"project_name": "forecasts"}, token=token),
        "cancel": site.post(f"/v1/runs/{run_id}/cancel", token=token),
        "publish": site.post(f"/v1/runs/{run_id}/transitions", {"status": "running"}, token=token),
    }

    replies = dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))

    assert {name for name, reply in replies.items() if reply.status < 300} == allowed
    assert {reply.code for name, reply in replies.items() if name not in allowed} <= {"forbidden"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "garbage", "http://[::1"])
async def test_a_foreign_origin_is_refused(site: Site, origin: str) -> None:
    reply = await site.get("/v1/runs", headers={"Origin": origin})

    assert (reply.status, reply.code) == (403, "forbidden")


async def test_the_own_origin_and_the_allowed_ones_are_let_in(site: Site) -> None:
    async with site_over(site.store, allowed_origins=frozenset({"https://runs.example"})) as other:
        own = await other.get("/v1/runs", headers={"Origin": other.gateway.url})
        allowed = await other.get("/v1/runs", headers={"Origin": "https://runs.example"})

    assert (own.status, allowed.status) == (200, 200)


PAGE = "https://runs.example"


async def test_a_page_of_an_allowed_origin_may_call_and_read(site: Site) -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    async with site_over(site.store, allowed_origins=frozenset({PAGE})) as other:
        beforehand = await other.call("OPTIONS", "/v1/runs", token=None, headers=asked)
        posted = await other.post("/v1/runs", {"project_name": "forecasts"}, headers={"Origin": PAGE})
        stream = {"Origin": PAGE, "Accept": "text/event-stream"}
        ended = await other.publish(status="success")
        answers = [
            posted,
            await other.get(f"/v1/runs/{ended}/events", headers=stream),
            await other.get("/v1/runs/zz", headers={"Origin": PAGE}),
            await other.get("/v1/runs", headers={"Origin": PAGE}, token=None),
        ]

    assert (beforehand.status, beforehand.body) == (204, b"")
    wanted = set(asked["Access-Control-Request-Headers"].split(","))
    assert wanted <= {one.strip().lower() for one in beforehand.headers["Access-Control-Allow-Headers"].split(",")}
    assert "POST" in beforehand.headers["Access-Control-Allow-Methods"]
    assert [answer.status for answer in answers] == [202, 200, 422, 401]
    for answer in (beforehand, *answers):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Origin" in answer.headers["Vary"]
        assert "Runstore-Cursor" in answer.headers["Access-Control-Expose-Headers"]


async def test_a_page_of_a_foreign_origin_hears_no_yes(site: Site) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}

    replies = [
        await site.call("OPTIONS", "/v1/runs", token=None, headers=asked),
        await site.get("/v1/runs", headers={"Origin": PAGE}),
        await site.get("/v1/runs", headers={"Origin": site.gateway.url}),
    ]

    assert [reply.status for reply in replies] == [403, 403, 200]
    assert not any("Access-Control-Allow-Origin" in reply.headers for reply in replies)


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/static", "//", "/metrics/nothing", "/v1//runs"])
async def test_an_unknown_address_is_a_problem(site: Site, path: str) -> None:
    reply = await site.get(path)

    assert (reply.status, reply.code) == (404, "not_found")
    assert reply.headers["Content-Type"] == "application/problem+json"


async def test_a_method_that_is_not_possible_names_those_that_are(site: Site) -> None:
    reply = await site.call("DELETE", "/v1/runs")

    assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "method_not_allowed", "GET, HEAD, POST")


@pytest.mark.parametrize("path", ["/v1/runs/%zz", "/v1/runs/%", "/v1/runs/%ff", "/v1/runs?tag=%ff", "/v1/runs?tag=%C3"])
async def test_an_address_that_cannot_be_decoded_is_a_bad_request(site: Site, path: str) -> None:
    reply = await site.get(path)

    assert (reply.status, reply.code) == (400, "bad_request")


async def test_an_encoded_body_is_not_unpacked(site: Site) -> None:
    reply = await site.post("/v1/runs", headers={"Content-Encoding": "gzip"}, data=b"\x1f\x8b")

    assert (reply.status, reply.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "told",
    [
        "application/xml",
        "text/html; charset=utf-8",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
    ],
)
async def test_a_body_that_says_it_is_no_json_is_not_taken(site: Site, told: str) -> None:
    for path in ("/v1/runs", f"/v1/runs/{RUN_ID}/transitions"):
        event = {"project_name": "forecasts"} | ({"status": "running"} if "transitions" in path else {})
        reply = await site.post(path, event, headers={"Content-Type": told})

        assert (reply.status, reply.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "told",
    [
        "application/json",
        "application/json; charset=UTF-8",
        "application/cloudevents+json",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "",
    ],
)
async def test_json_is_taken_also_under_the_types_that_clients_set_unasked(site: Site, told: str) -> None:
    reply = await site.post("/v1/runs", {"project_name": "forecasts"}, headers={"Content-Type": told})

    assert reply.status == 202


@pytest.mark.parametrize("path", ["/v1/runs", f"/v1/runs/{RUN_ID}", f"/v1/runs/{RUN_ID}/output", "/v1/openapi.json"])
async def test_a_client_that_takes_none_of_what_there_is_is_told_what_there_is(site: Site, path: str) -> None:
    await site.publish(RUN_ID, status="success", output={"stdout": "x"})

    for wanted in ("application/xml", "application/json;q=0, */*;q=0"):
        reply = await site.get(path, headers={"Accept": wanted})
        assert (reply.status, reply.code) == (406, "not_acceptable")
        assert "application/json" in reply.json()["detail"]
    for wanted in ("", "*/*", "application/*", "text/html, */*;q=0.1", "application/json; charset=utf-8"):
        assert (await site.get(path, headers={"Accept": wanted})).status == 200


async def test_a_run_is_not_asked_for_by_a_client_that_could_not_take_the_answer(site: Site) -> None:
    await site.post("/v1/runs", {"project_name": "forecasts"}, headers={"Accept": "text/html"})

    assert (await site.get("/v1/runs")).json()["runs"] == []


async def test_health_is_open_to_everybody(site: Site) -> None:
    alive, ready = await site.get("/healthz", token=None), await site.get("/readyz", token=None)

    assert (alive.status, ready.status) == (200, 200)


async def test_the_gateway_is_not_ready_while_the_projector_is_behind(site: Site) -> None:
    async with site_over(site.store, ready_lag_s=0.0, ready_every_s=0.05) as other:
        await site.store.log.append(RUN_ID, b"{}")
        readiness = other.gateway.services.readiness
        await until(lambda: not readiness.reason)

        readiness._marks = dict.fromkeys(readiness._marks, ((2**48, 0), 0.0))  # type: ignore[misc]
        await readiness.turn()
        reply = await other.get("/readyz", token=None)

    assert (reply.status, reply.code) == (503, "store_unavailable")
    assert "behind" in reply.json()["detail"]
    assert reply.headers["Retry-After"]


async def test_a_stopped_gateway_may_be_stopped_again_and_takes_no_connection(site: Site) -> None:
    async with site_over(site.store) as other:
        await asyncio.gather(other.gateway.stop(), other.gateway.stop())
        await other.gateway.wait()

        with pytest.raises(OSError):  # noqa: PT011 - any refusal will do
            await other.get("/healthz")


async def test_a_held_answer_is_given_when_the_gateway_stops(site: Site) -> None:
    run_id = await site.publish()
    async with site_over(site.store) as other:
        held = asyncio.create_task(other.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=30"}))
        await until(lambda: other.gateway.services.tail.hub.interests == 1)

        await other.gateway.stop()

        assert (await held).json()["status"] == "running"


async def test_the_document_describes_every_route_and_only_those(site: Site) -> None:
    document = (await site.get("/v1/openapi.json")).json()

    assert document["openapi"].startswith("3.1")
    assert document["paths"]["/v1/runs"]["post"]["requestBody"]
    assert set(document["components"]["schemas"]["RunView"]["required"]) == {
        *("run_id", "run_number", "project_name", "status", "commit_sha", "started_at", "finished_at"),
        *("error_message", "output", "truncated"),
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert all(f"{{{name}}}" in path for name in named)
            assert operation["responses"]


async def test_the_document_says_what_stands_before_every_route(site: Site) -> None:
    document = (await site.get("/v1/openapi.json")).json()

    for path, operations in document["paths"].items():
        for operation in operations.values():
            told = {int(status) for status in operation["responses"]}
            assert told >= {400, 415, 417, 422, 431, 500}
            if path.startswith("/v1"):
                assert told >= {401, 403, 503} | ({406} if path != "/v1/ws" else set())
            names = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
            assert not names & {"Accept", "Content-Type", "Authorization"}, "OpenAPI has these ignored"
    [partial] = document["paths"]["/v1/runs/{run_id}/output"]["get"]["responses"]["206"]["content"].values()
    assert partial == {}


async def test_the_forms_in_the_document_are_those_that_are_taken(site: Site) -> None:
    run_id = await site.publish()
    cursor = (await site.get(f"/v1/runs/{run_id}")).headers["Runstore-Cursor"]
    document = (await site.get("/v1/openapi.json")).json()

    def pattern(path: str, name: str) -> str:
        parameters = document["paths"][path]["get"]["parameters"]
        return str(next(one["schema"]["pattern"] for one in parameters if one["name"] == name))

    assert re.fullmatch(pattern("/v1/runs/{run_id}", "after"), cursor)
    for text in (run_id, run_id.upper(), run_id.replace("-", ""), run_id[:9], run_id[:4]):
        assert re.fullmatch(pattern("/v1/runs/{run_id}", "run_id"), text)
    assert not re.fullmatch(pattern("/v1/runs/{run_id}", "run_id"), run_id[:3])
    for name, is_one in (("forecasts", True), ("a/b.c_d-e", True), ("-a", False), ("a b", False), ("a" * 101, False)):
        assert bool(re.fullmatch(pattern("/v1/runs", "project_name"), name)) is is_one
        assert ((await site.get(f"/v1/runs?project_name={name.replace(' ', '+')}")).status == 200) is is_one
