"""`GET /v1/runs/{run_id}`."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from runstore.core.principal import Scope
from runstore.wire.cursor import decode_cursor, encode_cursor
from tests.gateway.builders import RUN_ID, Site, site_over, until

GOLDEN = Path(__file__).parents[1] / "vectors" / "get_run.json"


async def publish_golden(site: Site) -> None:
    golden = msgspec.json.decode(GOLDEN.read_bytes())
    await site.publish(
        RUN_ID,
        status="running",
        commit_sha=golden["commit_sha"],
        at=golden["started_at"],
    )
    await site.publish(RUN_ID, status="success", at=golden["finished_at"], output=golden["output"])


async def test_the_golden_answer_is_given_byte_for_byte(site: Site) -> None:
    await publish_golden(site)

    reply = await site.get(f"/v1/runs/{RUN_ID}")

    assert reply.body == msgspec.json.encode(msgspec.json.decode(GOLDEN.read_bytes()))
    assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("typed", ["6666", "66666666-66", "66666666666666666666666666666666", RUN_ID.upper()])
async def test_a_prefix_with_or_without_dashes_finds_the_run(site: Site, typed: str) -> None:
    await site.publish(RUN_ID)

    reply = await site.get(f"/v1/runs/{typed}")

    assert (reply.status, reply.json()["run_id"]) == (200, RUN_ID)


@pytest.mark.parametrize("typed", ["666", "xyz", "66g6", "%20", "-" * 5, "6" * 33, "6" * 200, "{run_id}", "%00"])
async def test_what_is_no_id_is_told_to_be_none(site: Site, typed: str) -> None:
    reply = await site.get(f"/v1/runs/{typed}")

    assert (reply.status, reply.code) == (422, "invalid_run_id")
    assert reply.headers["Content-Type"] == "application/problem+json"


async def test_an_unknown_id_and_prefix_are_not_found(site: Site) -> None:
    for typed in (RUN_ID, "abcd"):
        reply = await site.get(f"/v1/runs/{typed}")

        assert (reply.status, reply.code) == (404, "run_not_found")
        assert set(reply.json()) == {"type", "title", "status", "detail", "code", "request_id"}


async def test_an_ambiguous_prefix_names_at_most_ten_candidates(site: Site) -> None:
    run_ids = [f"abcdef00-0000-4000-8000-0000000000{number:02d}" for number in range(12)]
    await asyncio.gather(*(site.publish(run_id) for run_id in run_ids))

    reply = await site.get("/v1/runs/abcdef")

    assert (reply.status, reply.code) == (409, "ambiguous_run_id")
    assert reply.json()["candidates"] == run_ids[:10]


async def test_a_run_of_another_project_does_not_exist_and_makes_no_prefix_ambiguous(site: Site) -> None:
    mine = await site.publish("abcdef00-0000-4000-8000-000000000001")
    theirs = await site.publish("abcdef00-0000-4000-8000-000000000002", project_name="secrets")
    token = await site.token(Scope.READ, projects=("forecasts",))

    by_prefix = await site.get("/v1/runs/abcdef", token=token)
    by_id = await site.get(f"/v1/runs/{theirs}", token=token)
    by_its_prefix = await site.get("/v1/runs/abcdef00000040008000000000000002", token=token)
    unknown = await site.get(f"/v1/runs/{RUN_ID}", token=token)

    assert by_prefix.json()["run_id"] == mine
    assert by_id.status == by_its_prefix.status == 404
    assert by_id.body.replace(theirs.encode(), b"") == unknown.body.replace(RUN_ID.encode(), b"")


async def test_a_run_whose_project_is_out_of_reach_is_not_given_from_memory_either(site: Site) -> None:
    theirs = await site.publish(status="success", project_name="secrets", output={"stdout": "x"})
    token = await site.token(Scope.READ, projects=("forecasts",))

    await site.get(f"/v1/runs/{theirs}")

    assert (await site.get(f"/v1/runs/{theirs}", token=token)).code == "run_not_found"


@pytest.mark.parametrize("told", ["{etag}", "W/{etag}", "*", '"other", {etag}', '"other",W/{etag} , "x"'])
async def test_what_has_not_changed_is_not_sent_again(site: Site, told: str) -> None:
    run_id = await site.publish()
    etag = (await site.get(f"/v1/runs/{run_id}")).headers["ETag"]

    reply = await site.get(f"/v1/runs/{run_id}", headers={"If-None-Match": told.format(etag=etag)})

    assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", etag)
    assert reply.headers["Runstore-Cursor"]


async def test_the_tag_changes_with_the_run_and_is_the_same_on_every_gateway(site: Site) -> None:
    run_id = await site.publish()
    before = (await site.get(f"/v1/runs/{run_id}")).headers["ETag"]
    await site.publish(run_id, status="failed", error_message="no data")

    async with site_over(site.store) as other:
        replies = [await one.get(f"/v1/runs/{run_id}", headers={"If-None-Match": before}) for one in (site, other)]

    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].headers["ETag"] == replies[1].headers["ETag"] != before
    assert not before.startswith("W/")


async def test_a_wait_is_answered_the_moment_the_run_ends(site: Site) -> None:
    run_id = await site.publish()
    held = asyncio.create_task(site.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=15"}))
    await joined(site)

    await site.publish(run_id, status="success")

    reply = await asyncio.wait_for(held, 3)
    assert (reply.status, reply.json()["status"]) == (200, "success")
    assert reply.headers["Preference-Applied"] == "wait=15"
    assert site.gateway.services.tail.hub.interests == 0


async def test_a_wait_that_is_over_answers_with_the_run_as_it_stands(site: Site) -> None:
    run_id = await site.publish()

    reply = await site.get(f"/v1/runs/{run_id}", headers={"Prefer": "respond-async, wait=1"})

    assert (reply.status, reply.json()["status"]) == (200, "running")


async def test_an_ended_run_is_not_waited_for(site: Site) -> None:
    run_id = await site.publish(status="cancelled")

    reply = await asyncio.wait_for(site.get(f"/v1/runs/{run_id}", headers={"Prefer": 'wait="60"'}), 3)

    assert reply.json()["status"] == "cancelled"


@pytest.mark.parametrize("told", ["wait=0", "wait=61", "wait=x", "wait", "wait=-1", "wait=1.5", "wait=٣"])
async def test_a_wait_that_is_none_is_refused(site: Site, told: str) -> None:
    reply = await site.get(f"/v1/runs/{RUN_ID}", headers={"Prefer": told})

    assert (reply.status, reply.code) == (422, "invalid_request")


async def test_a_wait_ends_unanswered_when_its_token_is_revoked(site: Site) -> None:
    run_id = await site.publish()
    token = await site.token(Scope.READ)
    held = asyncio.create_task(site.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=30"}, token=token))
    await joined(site)

    await site.store.tokens.revoke(token)

    reply = await asyncio.wait_for(held, 3)
    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_a_caller_who_hangs_up_is_waited_for_no_longer(site: Site) -> None:
    run_id = await site.publish()
    held = asyncio.create_task(site.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=30"}))
    await joined(site)

    held.cancel()

    await joined(site, 0)


async def test_an_answer_after_a_cursor_is_never_from_before_it(site: Site) -> None:
    run_id = await site.publish()
    published = await site.post(f"/v1/runs/{run_id}/transitions", {"status": "success"})

    async with site_over(site.store) as other:
        reply = await other.get(f"/v1/runs/{run_id}?after={published.json()['cursor']}")

    assert reply.json()["status"] == "success"


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "%C3%A9", "*" * 50, "a" * 9000])
async def test_a_cursor_that_is_none_is_refused(site: Site, cursor: str) -> None:
    reply = await site.get(f"/v1/runs/{RUN_ID}?after={cursor}")

    assert (reply.status, reply.code) == (422, "invalid_request")


async def test_a_cursor_of_another_store_is_lost(site: Site) -> None:
    run_id = await site.publish()
    cursor = (await site.get(f"/v1/runs/{run_id}")).headers["Runstore-Cursor"]

    foreign = tuple(msgspec.structs.replace(place, epoch=b"else") for place in decode_cursor(cursor))
    reply = await site.get(f"/v1/runs/{run_id}?after={encode_cursor(foreign)}")

    assert (reply.status, reply.code) == (410, "cursor_lost")


async def test_unknown_parameters_are_refused_with_the_nearest_known(site: Site) -> None:
    reply = await site.get(f"/v1/runs/{RUN_ID}?aftr=x")

    assert (reply.status, reply.code) == (422, "invalid_request")
    assert "'after'" in reply.json()["detail"]


async def test_head_answers_as_get_without_the_body(site: Site) -> None:
    run_id = await site.publish(status="success")
    get = await site.get(f"/v1/runs/{run_id}")

    head = await site.call("HEAD", f"/v1/runs/{run_id}")

    assert (head.status, head.body) == (200, b"")
    assert head.headers["ETag"] == get.headers["ETag"]
    assert head.headers["Content-Length"] == str(len(get.body))


async def test_an_ended_run_is_answered_without_asking_the_store_again(site: Site) -> None:
    run_id = await site.publish(status="success", output={"stdout": "done"})
    first = await site.get(f"/v1/runs/{run_id}")
    asked = site.store.runs.asked

    again = [await site.get(f"/v1/runs/{run_id}") for _ in range(20)]

    assert {reply.body for reply in again} == {first.body}
    assert site.store.runs.asked == asked


async def joined(site: Site, number: int = 1) -> None:
    """Wait until so many wait for a run on a gateway."""
    await until(lambda: site.gateway.services.tail.hub.interests == number)
