"""`POST /v1/runs` and `POST /v1/runs/{run_id}/cancel`."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from runstore.core.event import MAX_JSON_DEPTH
from runstore.core.principal import Scope
from runstore.wire.event import decode_event
from tests.gateway.builders import RUN_ID, Site, site_over, until


async def test_a_run_that_was_asked_for_is_found_at_once_on_another_gateway(site: Site) -> None:
    async with site_over(site.store) as other:
        for _ in range(10):
            reply = await site.post("/v1/runs", {"project_name": "forecasts", "inputs": {"horizon": 3}})
            run = reply.json()

            found = await other.get(reply.headers["Location"])

            assert (reply.status, run["status"]) == (202, "pending")
            assert found.json() == run


async def test_run_numbers_are_counted_per_project(site: Site) -> None:
    numbers = [(await site.run())["run_number"] for _ in range(3)]

    assert numbers == [1, 2, 3]
    assert (await site.run(project_name="secrets"))["run_number"] == 1


async def test_what_a_worker_needs_is_in_the_log(site: Site) -> None:
    run = await site.run(
        parameters={"b": 1, "a": [1.5]}, timeout_s=5, queue_timeout_s=60, commit_sha="ABC1234", tags=["x", "y", "x"]
    )

    keys = site.store.redis.meta.keys_of(run["run_id"])
    [(_, fields)] = await site.store.redis.client.execute_command("XRANGE", keys.events, "-", "+")
    event, _ = decode_event(fields[b"event"])
    assert event.request is not None
    assert bytes(event.request.inputs) == b'{"b":1,"a":[1.5]}'
    assert (event.request.timeout_s, event.request.queue_timeout_s) == (5, 60)
    assert (event.request.commit_sha, event.tags, event.numbered) == ("abc1234", ("x", "y"), True)


async def test_inputs_may_be_as_deep_as_a_body_may_be(site: Site) -> None:
    def body(depth: int) -> bytes:
        return b'{"project_name":"forecasts","inputs":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"

    deepest = await site.post("/v1/runs", data=body(MAX_JSON_DEPTH - 1))
    deeper = await site.post("/v1/runs", data=body(MAX_JSON_DEPTH))

    assert (deepest.status, deeper.status, deeper.code) == (202, 422, "invalid_request")


BAD: list[tuple[Any, str]] = [
    ({}, "invalid_request"),
    ([], "invalid_request"),
    ({"project_name": 3}, "invalid_request"),
    ({"project_name": ""}, "invalid_request"),
    ({"project_name": "../x"}, "invalid_request"),
    ({"project_name": "forecast"}, "unknown_project"),
    ({"project_name": "forecasts", "inputs": []}, "invalid_request"),
    ({"project_name": "forecasts", "inputs": "x"}, "invalid_request"),
    ({"project_name": "forecasts", "inputs": {}, "parameters": {}}, "invalid_request"),
    ({"project_name": "forecasts", "inputz": {}}, "invalid_request"),
    ({"project_name": "forecasts", "mode": "later"}, "invalid_request"),
    ({"project_name": "forecasts", "timeout_s": 0}, "invalid_request"),
    ({"project_name": "forecasts", "timeout_s": -1}, "invalid_request"),
    ({"project_name": "forecasts", "timeout_s": 604801}, "invalid_request"),
    ({"project_name": "forecasts", "queue_timeout_s": True}, "invalid_request"),
    ({"project_name": "forecasts", "commit_sha": "abc12"}, "invalid_request"),
    ({"project_name": "forecasts", "commit_sha": "abc1234\n"}, "invalid_request"),
    ({"project_name": "forecasts", "commit_sha": "g" * 40}, "invalid_request"),
    ({"project_name": "forecasts", "branch": "--upload-pack=x"}, "invalid_request"),
    ({"project_name": "forecasts", "branch": "a..b"}, "invalid_request"),
    ({"project_name": "forecasts", "branch": "a b"}, "invalid_request"),
    ({"project_name": "forecasts", "branch": "main", "commit_sha": "abc1234"}, "invalid_request"),
    ({"project_name": "forecasts", "tags": ["x"] * 21}, "invalid_request"),
    ({"project_name": "forecasts", "tags": [""]}, "invalid_request"),
    ({"project_name": "forecasts", "tags": ["x" * 65]}, "invalid_request"),
    ({"project_name": "forecasts", "run_id": "6666"}, "invalid_run_id"),
]


async def test_a_request_that_breaks_a_rule_is_told_which(site: Site) -> None:
    for body, code in BAD:
        reply = await site.post("/v1/runs", body)

        assert (reply.status, reply.code) == (422, code), body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"project_name":"\xff"}', b"[" * 100, b'{"a":' * 70, b"null"]
)
async def test_a_body_that_is_no_json_object_is_told_so(site: Site, body: bytes) -> None:
    reply = await site.post("/v1/runs", data=body)

    assert (reply.status, reply.code) == (422, "invalid_request")


async def test_misspelt_fields_and_projects_are_answered_with_the_nearest(site: Site) -> None:
    field = await site.post("/v1/runs", {"project_nam": "forecasts"})
    project = await site.post("/v1/runs", {"project_name": "forecast"})

    assert "'project_name'" in field.json()["detail"]
    assert "'forecasts'" in project.json()["detail"]


async def test_inputs_over_a_megabyte_are_too_large(site: Site) -> None:
    for size in (1024 * 1024, 2 * 1024 * 1024):
        reply = await site.post("/v1/runs", {"project_name": "forecasts", "inputs": {"x": "y" * size}})

        assert (reply.status, reply.code) == (413, "payload_too_large")


async def test_a_project_out_of_reach_is_forbidden_whether_it_is_served_or_not(site: Site) -> None:
    token = await site.token(Scope.WRITE, projects=("forecasts",))

    replies = [await site.post("/v1/runs", {"project_name": name}, token=token) for name in ("secrets", "nothing")]

    assert [reply.code for reply in replies] == ["forbidden", "forbidden"]


@pytest.mark.parametrize("by", ["header", "run_id"])
async def test_the_same_request_again_gives_the_same_run(site: Site, by: str) -> None:
    headers = {"Idempotency-Key": "k-1"} if by == "header" else {}
    body = {"project_name": "forecasts", "inputs": {"a": 1, "b": 2}} | ({"run_id": RUN_ID} if by == "run_id" else {})
    again = {**body, "inputs": {"b": 2, "a": 1}}

    replies = [await site.post("/v1/runs", one, headers=headers) for one in (body, again, body)]

    assert [reply.status for reply in replies] == [202, 202, 202]
    assert len({reply.json()["run_id"] for reply in replies}) == 1
    assert {reply.json()["run_number"] for reply in replies} == {1}


@pytest.mark.parametrize("by", ["header", "run_id"])
async def test_the_same_key_with_another_body_is_a_conflict(site: Site, by: str) -> None:
    headers = {"Idempotency-Key": "k-1"} if by == "header" else {}
    body = {"project_name": "forecasts"} | ({"run_id": RUN_ID} if by == "run_id" else {})
    await site.post("/v1/runs", body, headers=headers)

    reply = await site.post("/v1/runs", {**body, "inputs": {"a": 1}}, headers=headers)

    assert (reply.status, reply.code) == (409, "idempotency_conflict")


async def test_a_key_counts_per_caller_and_project(site: Site) -> None:
    token = await site.token(Scope.WRITE)
    headers = {"Idempotency-Key": "k-1"}

    replies = [
        await site.post("/v1/runs", {"project_name": "forecasts"}, headers=headers),
        await site.post("/v1/runs", {"project_name": "forecasts"}, headers=headers, token=token),
        await site.post("/v1/runs", {"project_name": "secrets"}, headers=headers),
    ]

    assert len({reply.json()["run_id"] for reply in replies}) == 3


async def test_of_many_at_once_with_one_key_and_two_bodies_one_body_wins(site: Site) -> None:
    async with site_over(site.store) as other:
        for round_ in range(5):
            headers = {"Idempotency-Key": f"race-{round_}"}
            bodies = [{"project_name": "forecasts", "inputs": {"n": number % 2}} for number in range(10)]
            replies = await asyncio.gather(
                *(one.post("/v1/runs", body, headers=headers) for body in bodies for one in (site, other))
            )

            won = [reply for reply in replies if reply.status == 202]
            lost = [reply for reply in replies if reply.status == 409]
            assert len(won) == len(lost) == 10
            assert len({reply.json()["run_id"] for reply in won}) == 1

    listed = (await site.get("/v1/runs?project_name=forecasts")).json()["runs"]
    assert sorted(run["run_number"] for run in listed) == [1, 2, 3, 4, 5]


async def test_a_run_id_that_somebody_elses_run_has_is_only_told_to_be_taken(site: Site) -> None:
    await site.publish(RUN_ID, project_name="secrets")
    token = await site.token(Scope.WRITE, projects=("forecasts",))

    reply = await site.post("/v1/runs", {"project_name": "forecasts", "run_id": RUN_ID}, token=token)

    assert (reply.status, reply.code) == (409, "idempotency_conflict")
    assert "secrets" not in reply.json()["detail"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é"])
async def test_a_key_that_is_none_is_refused(site: Site, key: str) -> None:
    reply = await site.post("/v1/runs", {"project_name": "forecasts"}, headers={"Idempotency-Key": key})

    assert (reply.status, reply.code) == (422, "invalid_request")


async def test_a_key_and_a_run_id_together_are_refused(site: Site) -> None:
    body = {"project_name": "forecasts", "run_id": str(uuid4())}

    reply = await site.post("/v1/runs", body, headers={"Idempotency-Key": "k"})

    assert reply.code == "invalid_request"


async def test_what_is_null_is_as_if_it_were_not_there(site: Site) -> None:
    names = ("inputs", "parameters", "mode", "timeout_s", "queue_timeout_s", "commit_sha", "branch", "tags", "run_id")

    reply = await site.post("/v1/runs", {"project_name": "forecasts"} | dict.fromkeys(names))

    assert (reply.status, reply.json()["status"]) == (202, "pending")


async def test_sync_answers_with_the_finished_run_the_moment_it_ends(site: Site) -> None:
    body = {"project_name": "forecasts", "mode": "sync", "run_id": RUN_ID}
    held = asyncio.create_task(site.post("/v1/runs", body))
    await until(lambda: site.gateway.services.tail.hub.interests == 1)

    await site.publish(RUN_ID, status="success", output={"outputs": {"x": 1}})

    reply = await asyncio.wait_for(held, 3)
    assert (reply.status, reply.json()["output"]["outputs"]) == (200, {"x": 1})


async def test_sync_answers_with_the_run_as_it_stands_when_the_wait_is_over(site: Site) -> None:
    body = {"project_name": "forecasts", "mode": "sync"}

    reply = await site.post("/v1/runs", body, headers={"Prefer": "wait=1"})

    assert (reply.status, reply.json()["status"]) == (202, "pending")
    assert reply.headers["Preference-Applied"] == "wait=1"


async def test_a_caller_who_hangs_up_midway_leaves_a_whole_run(site: Site) -> None:
    for number in range(20):
        body = {"project_name": "forecasts", "inputs": {"n": number}}
        asked = asyncio.create_task(site.post("/v1/runs", body, headers={"Idempotency-Key": f"hang-{number}"}))
        await asyncio.sleep(number * 0.0003)
        asked.cancel()

        reply = await site.post("/v1/runs", body, headers={"Idempotency-Key": f"hang-{number}"})

        assert reply.status == 202


async def test_a_pending_run_is_cancelled_at_once(site: Site) -> None:
    run = await site.run()

    reply = await site.post(f"/v1/runs/{run['run_id']}/cancel")

    assert (reply.status, reply.json()["status"]) == (202, "cancelled")
    assert reply.json()["error_message"]


async def test_a_run_that_a_worker_holds_is_asked_to_end(site: Site) -> None:
    run = await site.run()
    site.store.served.held.add(run["run_id"])

    reply = await site.post(f"/v1/runs/{run['run_id'][:13]}/cancel")

    assert (reply.status, reply.json()["status"]) == (202, "pending")
    assert site.store.served.asked == [run["run_id"]]


async def test_a_run_that_has_ended_stays_as_it_is(site: Site) -> None:
    run_id = await site.publish(status="success")

    reply = await site.post(f"/v1/runs/{run_id}/cancel")

    assert (reply.status, reply.json()["status"]) == (200, "success")


async def test_nobody_cancels_what_they_may_not_see(site: Site) -> None:
    run_id = await site.publish(project_name="secrets")
    token = await site.token(Scope.WRITE, projects=("forecasts",))

    reply = await site.post(f"/v1/runs/{run_id}/cancel", token=token)

    assert (reply.status, reply.code) == (404, "run_not_found")
    assert (await site.get(f"/v1/runs/{run_id}")).json()["status"] == "running"
