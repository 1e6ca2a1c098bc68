"""`POST /v1/runs/{run_id}/transitions`, and the outputs that were published."""

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from runstore.core.principal import Scope
from runstore.gateway.transitions import PublicEvent
from runstore.wire.event import PUBLIC_FIELDS
from tests.gateway.builders import RUN_ID, Reply, Site, site_over


async def test_a_published_event_is_found_at_once_on_another_gateway(site: Site) -> None:
    reply = await site.post(f"/v1/runs/{RUN_ID}/transitions", {"status": "running", "project_name": "forecasts"})

    async with site_over(site.store) as other:
        found = await other.get(f"/v1/runs/{RUN_ID}?after={reply.json()['cursor']}")
    assert reply.status == 202
    assert set(reply.json()) == {"run_id", "event_id", "cursor"}
    assert found.json()["status"] == "running"


async def test_an_event_keeps_its_id_and_may_name_its_run(site: Site) -> None:
    event = {"run_id": RUN_ID, "status": "running", "project_name": "forecasts", "event_id": "e-1", "colour": "red"}

    reply = await site.post(f"/v1/runs/{RUN_ID.upper()}/transitions", event)

    assert (reply.status, reply.json()["event_id"], reply.json()["run_id"]) == (202, "e-1", RUN_ID)


async def test_a_run_id_of_null_is_one_that_was_left_out(site: Site) -> None:
    event = {"run_id": None, "status": "running", "project_name": "forecasts"}

    assert (await site.post(f"/v1/runs/{RUN_ID}/transitions", event)).json()["run_id"] == RUN_ID


async def test_unknown_fields_are_kept_out_and_counted_whatever_they_hold(site: Site) -> None:
    event = {"status": "running", "project_name": "forecasts", "colour": "red", "request": 5, "output_ref": "x"}

    reply = await site.post(f"/v1/runs/{RUN_ID}/transitions", event)

    stats = await site.store.redis.client.hgetall(site.store.redis.meta.keys_of(RUN_ID).stats)
    assert (reply.status, stats[b"unknown_fields"]) == (202, b"3")


BAD: list[tuple[Any, str]] = [
    ({}, "invalid_request"),
    ([], "invalid_request"),
    ({"status": "done"}, "invalid_request"),
    ({"status": "running", "run_id": "77777777-7777-7777-7777-777777777777"}, "invalid_request"),
    ({"status": "running", "run_id": 5}, "invalid_request"),
    ({"status": "running", "at": "yesterday"}, "invalid_request"),
    ({"status": "running", "attempt": 0}, "invalid_request"),
    ({"status": "success", "progress": {"fraction": 1}}, "invalid_request"),
    ({"status": "running", "progress": {"fraction": 2}}, "invalid_request"),
    ({"status": "success", "output": 5}, "invalid_request"),
    ({"status": "running", "project_name": " "}, "invalid_request"),
]


async def test_an_event_that_breaks_a_rule_is_told_which(site: Site) -> None:
    for event, code in BAD:
        reply = await site.post(f"/v1/runs/{RUN_ID}/transitions", event)

        assert (reply.status, reply.code) == (422, code), event


@pytest.mark.parametrize("body", [b"", b"x", b"{}x", b'"{"', b"\xff", b'{"status":', b"{" * 90])
async def test_a_body_that_is_no_event_is_told_so(site: Site, body: bytes) -> None:
    reply = await site.post(f"/v1/runs/{RUN_ID}/transitions", data=body)

    assert (reply.status, reply.code) == (422, "invalid_request")


async def test_an_event_is_taken_under_a_prefix_of_a_run_that_is_known(site: Site) -> None:
    run_id = await site.publish(status="running")

    reply = await site.post(f"/v1/runs/{run_id[:13].upper()}/transitions", {"status": "success"})

    assert (reply.status, reply.json()["run_id"]) == (202, run_id)
    assert (await site.get(f"/v1/runs/{run_id}")).json()["status"] == "success"


async def test_a_prefix_of_no_run_or_of_none_within_reach_publishes_nothing(site: Site) -> None:
    theirs = await site.publish(project_name="secrets")
    token = await site.token(Scope.PUBLISH, projects=("forecasts",))
    event = {"status": "failed", "project_name": "forecasts"}

    for prefix in (theirs[:8], "00004444"):
        reply = await site.post(f"/v1/runs/{prefix}/transitions", event, token=token)

        assert (reply.status, reply.code) == (404, "run_not_found")
    assert (await site.post("/v1/runs/666/transitions", event)).code == "invalid_run_id"
    assert (await site.get(f"/v1/runs/{theirs}")).json()["status"] == "running"


async def test_an_event_under_a_prefix_of_two_runs_is_taken_for_neither(site: Site) -> None:
    for last in "12":
        await site.publish(run_id=f"abcd1234-0000-4000-8000-00000000000{last}")

    reply = await site.post("/v1/runs/abcd1234/transitions", {"status": "failed"})

    assert (reply.status, reply.code, len(reply.json()["candidates"])) == (409, "ambiguous_run_id", 2)


async def test_an_event_over_its_limit_is_too_large(site: Site) -> None:
    event = {"status": "failed", "project_name": "forecasts", "error_message": "x" * 300_000}

    reply = await site.post(f"/v1/runs/{RUN_ID}/transitions", event)

    assert (reply.status, reply.code) == (413, "payload_too_large")


async def test_what_only_the_gateway_may_say_is_not_heard(site: Site) -> None:
    event = {"status": "pending", "project_name": "forecasts", "numbered": True, "request": {"inputs": {}}}

    await site.post(f"/v1/runs/{RUN_ID}/transitions", event)

    assert (await site.get(f"/v1/runs/{RUN_ID}")).json()["run_number"] is None


async def test_a_run_that_may_not_be_written_is_refused_as_if_it_did_not_exist(site: Site) -> None:
    theirs = await site.publish(project_name="secrets")
    token = await site.token(Scope.PUBLISH, projects=("forecasts",))

    async def attempt(run_id: str, **event: Any) -> Reply:
        return await site.post(f"/v1/runs/{run_id}/transitions", {"status": "failed", **event}, token=token)

    for fields in ({}, {"project_name": "secrets"}):
        there, nowhere = await attempt(theirs, **fields), await attempt(RUN_ID, **fields)
        assert there.code == nowhere.code == "run_not_found"
        assert there.body.replace(theirs.encode(), b"") == nowhere.body.replace(RUN_ID.encode(), b"")
    assert (await attempt(theirs, project_name="forecasts")).code == "run_not_found"
    assert (await site.get(f"/v1/runs/{theirs}")).json()["status"] == "running"


async def test_the_document_knows_every_field_that_anybody_may_publish() -> None:
    assert set(PublicEvent.__struct_fields__) == PUBLIC_FIELDS


async def publish_output(site: Site, status: str = "success", **output: Any) -> str:
    return await site.publish(status=status, output=output)


async def test_a_large_output_is_cut_in_the_answer_and_whole_at_its_own_address(site: Site) -> None:
    stdout = "".join(f"line {number}\n" for number in range(300_000))
    run_id = await publish_output(site, stdout=stdout, outputs={"revenue": [1, 2]})

    run = (await site.get(f"/v1/runs/{run_id}")).json()
    whole = await site.get(f"/v1/runs/{run_id}/output")

    assert run["truncated"] is True
    assert stdout.endswith(run["output"]["stdout"])
    assert len(msgspec.json.encode(run["output"])) <= 1024 * 1024
    assert whole.json()["stdout"] == stdout
    assert int(whole.headers["Content-Length"]) == len(whole.body)


@pytest.mark.parametrize(
    ("told", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=-5", -5, None),
        ("bytes=5-", 5, None),
        ("bytes=3-999999", 3, None),
    ],
)
async def test_a_range_is_those_bytes_of_the_whole(site: Site, told: str, start: int, stop: int | None) -> None:
    run_id = await publish_output(site, stdout="0123456789" * 10)
    whole = await site.get(f"/v1/runs/{run_id}/output")

    part = await site.get(f"/v1/runs/{run_id}/output", headers={"Range": told})

    assert (part.status, part.body) == (206, whole.body[start:stop])
    begin = whole.body.index(part.body) if start < 0 else start
    assert part.headers["Content-Range"] == f"bytes {begin}-{begin + len(part.body) - 1}/{len(whole.body)}"
    assert whole.headers["Accept-Ranges"] == "bytes"


async def test_ranges_across_chunks_join_to_the_whole(site: Site) -> None:
    run_id = await publish_output(site, outputs=[number * 7919 % 1_000_003 for number in range(400_000)])
    whole = (await site.get(f"/v1/runs/{run_id}/output")).body
    size, step = len(whole), 900_001

    parts = [
        await site.get(f"/v1/runs/{run_id}/output", headers={"Range": f"bytes={first}-{first + step - 1}"})
        for first in range(0, size, step)
    ]

    assert b"".join(part.body for part in parts) == whole


@pytest.mark.parametrize(
    "told", ["bytes=999999-", "bytes=5-2", "bytes=-", "bytes=0-1,4-5", "bytes=x-y", "bytes=-0", "bytes"]
)
async def test_a_range_that_is_none_is_not_satisfiable(site: Site, told: str) -> None:
    run_id = await publish_output(site, stdout="x")

    reply = await site.get(f"/v1/runs/{run_id}/output", headers={"Range": told})

    assert (reply.status, reply.code) == (416, "range_not_satisfiable")
    assert reply.headers["Content-Range"].startswith("bytes */")


async def test_a_range_of_what_is_there_no_longer_is_the_whole(site: Site) -> None:
    run_id = await publish_output(site, stdout="x")
    headers = {"Range": "bytes=0-1", "If-Range": '"another"'}

    reply = await site.get(f"/v1/runs/{run_id}/output", headers=headers)

    assert reply.status == 200


async def test_an_output_that_has_not_changed_is_not_sent_again(site: Site) -> None:
    run_id = await publish_output(site, outputs={"x": 1})
    for path in (f"/v1/runs/{run_id}/output", f"/v1/runs/{run_id}/output/x"):
        etag = (await site.get(path)).headers["ETag"]

        reply = await site.get(path, headers={"If-None-Match": etag})

        assert (reply.status, reply.body) == (304, b"")


@pytest.mark.parametrize("name", ["revenue", "a b", "ä/ö", "100%", "", "{x}", "?&=", "\u2028", "..."])
async def test_one_named_output_is_given_whole_as_json(site: Site, name: str) -> None:
    run_id = await publish_output(site, outputs={name: [100, 110.5, None], "other": 1})

    reply = await site.get(f"/v1/runs/{run_id}/output/{quote(name, safe='')}")

    assert (reply.status, reply.body) == (200, b"[100,110.5,null]")


async def test_the_slashes_of_a_name_need_no_encoding(site: Site) -> None:
    run_id = await publish_output(site, outputs={"metrics/rmse": 1, "a/b\n/": 2})

    replies = [await site.get(f"/v1/runs/{run_id}/output/{name}") for name in ("metrics/rmse", "a/b%0A/")]

    assert [reply.json() for reply in replies] == [1, 2]


async def test_a_named_output_of_many_megabytes_is_given_whole(site: Site) -> None:
    value = "x" * 3_000_000
    run_id = await publish_output(site, outputs={"big": value, "small": 1})

    reply = await site.get(f"/v1/runs/{run_id}/output/big")

    assert reply.json() == value


async def test_outputs_that_are_not_there_are_not_found(site: Site) -> None:
    running, silent = await site.publish(), await site.publish(status="success")
    listed = await publish_output(site, outputs=[1])
    for path in (f"{running}/output", f"{silent}/output", f"{listed}/output/x", f"{silent}/output/x"):
        reply = await site.get(f"/v1/runs/{path}")

        assert (reply.status, reply.code) == (404, "output_not_found")
        assert (await site.get(f"/v1/runs/{path.split('/')[0]}?after={reply.headers['Runstore-Cursor']}")).status == 200


async def test_the_output_of_a_failed_run_and_one_that_came_too_late_can_be_read(site: Site) -> None:
    failed = await publish_output(site, "failed", stdout="so far")
    lost = await site.publish(status="failed", error_message="worker lost")
    await site.get(f"/v1/runs/{lost}")
    await site.publish(lost, status="success", output={"stdout": "after all"})

    replies = [await site.get(f"/v1/runs/{run_id}/output") for run_id in (failed, lost)]

    assert [reply.json()["stdout"] for reply in replies] == ["so far", "after all"]
    assert (await site.get(f"/v1/runs/{lost}")).json()["status"] == "failed"


async def test_head_tells_the_size_of_an_output(site: Site) -> None:
    run_id = await publish_output(site, stdout="x" * 100)
    get = await site.get(f"/v1/runs/{run_id}/output")

    head = await site.call("HEAD", f"/v1/runs/{run_id}/output")

    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(get.body)))


async def test_many_publishers_at_once_each_hear_of_their_own(site: Site) -> None:
    run_ids = await asyncio.gather(*(site.publish(status="success", output={"stdout": str(n)}) for n in range(50)))

    replies = await asyncio.gather(*(site.get(f"/v1/runs/{run_id}") for run_id in run_ids))

    assert [reply.json()["output"]["stdout"] for reply in replies] == [str(number) for number in range(50)]
