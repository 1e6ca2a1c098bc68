"""Events and logs over HTTP: as JSON and text, and as server-sent events."""

import json

import pytest
import redis.asyncio

from runstore.core.ids import RunId
from runstore.core.principal import Scope
from runstore.wire.cursor import encode_cursor
from tests.gateway.push.stage import Stage, new_run, until


async def test_events_are_told_in_order_with_the_ignored_ones_marked(stage: Stage) -> None:
    run_id = new_run()
    for status in ("pending", "running", "running", "success", "failed"):
        await stage.publish(run_id, status)
    status_code, body, headers = await stage.get(f"/v1/runs/{run_id[:9]}/events")
    told = json.loads(body)

    assert status_code == 200
    assert told["run_id"] == run_id
    assert [(event["status"], event["ignored"]) for event in told["events"]] == [
        ("pending", False),
        ("running", False),
        ("running", True),
        ("success", False),
        ("failed", True),
    ]
    assert headers["Runstore-Cursor"]


async def test_the_stream_tells_the_history_then_goes_on_live_and_ends(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "pending")
    async with stage.events(f"/v1/runs/{run_id}/events") as events:
        first = await events.hear()
        await stage.publish(run_id, "running")
        second = await events.hear()
        await stage.publish(run_id, "running", progress={"fraction": 0.5})
        progress = await events.hear()
        await stage.publish(run_id, "failed", error_message="line\nbreak")
        rest = await events.rest()

    assert events.response.content_type == "text/event-stream"
    assert [event and (event["event"], event["data"]["status"]) for event in (first, second)] == [
        ("transition", "pending"),
        ("transition", "running"),
    ]
    assert progress is not None
    assert progress["event"] == "progress"
    assert "id" not in progress
    assert [event["data"]["error_message"] for event in rest] == ["line\nbreak"]
    assert rest[0]["data"]["run_id"] == run_id


async def test_each_event_id_resumes_without_repeats_or_misses(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "pending")
    async with stage.events(f"/v1/runs/{run_id}/events") as events:
        heard = [await events.hear()]
        for status, attempt in (("running", 1), ("running", 2), ("running", 3), ("success", 3)):
            await stage.publish(run_id, status, attempt=attempt)
            heard.append(await events.hear())
    live = [event for event in heard if event is not None]
    async with stage.events(f"/v1/runs/{run_id}/events") as events:
        replayed = await events.rest()

    assert [event["data"] for event in replayed] == [event["data"] for event in live]
    for told in (live, replayed):
        for number, event in enumerate(told, 1):
            async with stage.events(f"/v1/runs/{run_id}/events", **{"Last-Event-ID": event["id"]}) as events:
                rest = await events.rest()
            assert [one["data"] for one in rest] == [one["data"] for one in told[number:]]


async def test_a_websocket_cursor_goes_on_as_an_event_id(stage: Stage) -> None:
    run_id = new_run()
    async with stage.socket() as socket:
        await socket.subscribe(run_ids=[run_id], events="all")
        await socket.hear("subscribed")
        await stage.publish(run_id, "running")
        cursor = (await socket.hear("run"))["cursor"]
    await stage.publish(run_id, "success")
    async with stage.events(f"/v1/runs/{run_id}/events", **{"Last-Event-ID": cursor}) as events:
        rest = await events.rest()

    assert [event["data"]["status"] for event in rest] == ["success"]


async def test_a_lost_event_id_is_told_with_reset_and_the_whole_history(stage: Stage) -> None:
    import msgspec

    run_id = new_run()
    await stage.publish(run_id, "success")
    place = msgspec.structs.replace(stage.tail.cursor_for(RunId(run_id))[0], nonce=b"another!")
    last = encode_cursor((place,))
    async with stage.events(f"/v1/runs/{run_id}/events", **{"Last-Event-ID": last}) as events:
        heard = await events.rest()

    assert [event["event"] for event in heard] == ["reset", "transition"]


async def test_a_store_that_is_lost_while_it_is_streamed_is_told_with_reset(stage: Stage, redis_url: str) -> None:
    run_id = new_run()
    await stage.publish(run_id, "running")
    async with stage.events(f"/v1/runs/{run_id}/events") as events:
        await events.hear()
        await stage.projector.stop()
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            partition = stage.tail.partition_of(RunId(run_id))
            await client.delete(*[key async for key in client.scan_iter(f"runstore:{{{partition}}}:*")])
        await stage.tail.prove()
        reset = await events.hear()
        await stage.project_again()
        await stage.publish(run_id, "cancelled")
        rest = await events.rest()

    assert reset is not None
    assert reset["event"] == "reset"
    assert [event["data"]["status"] for event in rest] == ["cancelled"]


@pytest.mark.parametrize("what", ["events", "logs"])
@pytest.mark.parametrize(
    ("accept", "status"), [("image/png", 406), ("text/event-stream;q=0", 406), ("*/*", 200), ("text/*", 200)]
)
async def test_a_media_type_that_cannot_be_given_is_406(stage: Stage, what: str, accept: str, status: int) -> None:
    run_id = new_run()
    await stage.publish(run_id, "success")
    found, body, _ = await stage.get(f"/v1/runs/{run_id}/{what}", Accept=accept)

    assert found == status
    assert status == 200 or json.loads(body)["code"] == "not_acceptable"


@pytest.mark.parametrize("what", ["events", "logs"])
async def test_a_run_that_may_not_be_read_is_not_found(stage: Stage, what: str) -> None:
    run_id = new_run()
    token = await stage.tokens.make("token-of-another-project", scopes=(Scope.READ,), projects=("other",))
    await stage.publish(run_id, "success")
    for accept in ("text/event-stream", "*/*"):
        status, body, _ = await stage.get(f"/v1/runs/{run_id}/{what}", token, Accept=accept)
        assert (status, json.loads(body)["code"]) == (404, "run_not_found")


@pytest.mark.parametrize("what", ["events", "logs"])
async def test_a_broken_event_id_is_refused(stage: Stage, what: str) -> None:
    run_id = new_run()
    await stage.publish(run_id, "running")
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "nonsense!"}
    status, body, _ = await stage.get(f"/v1/runs/{run_id}/{what}", **headers)

    assert (status, json.loads(body)["code"]) == (422, "invalid_request")


async def test_a_revoked_token_ends_its_streams(stage: Stage) -> None:
    run_id = new_run()
    token = await stage.tokens.make("token-soon-to-be-revoked", scopes=(Scope.READ,))
    await stage.publish(run_id, "running")
    async with stage.events(f"/v1/runs/{run_id}/events", token) as events:
        await events.hear()
        await stage.tokens.revoke(token)
        await until(lambda: stage.open_streams == 0)

    await until(lambda: stage.tail.hub.interests == 0)  # the stream is let go of before its handler has heard of it


async def test_logs_follow_a_run_until_it_ends(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "running")
    await stage.logs.append_logs(RunId(run_id), [("stdout", b"one\r\ntwo\n"), ("stderr", b"bad \xff byte")])
    async with stage.events(f"/v1/runs/{run_id}/logs") as events:
        heard = [await events.hear(), await events.hear()]
        await stage.logs.append_logs(RunId(run_id), [("stdout", "ü".encode()[:1]), ("stdout", "ü".encode()[1:])])
        await stage.publish(run_id, "success", output={"stdout": "whole"})
        rest = await events.rest()
    told = [event for event in heard if event is not None] + rest
    async with stage.events(f"/v1/runs/{run_id}/logs", **{"Last-Event-ID": told[0]["id"]}) as events:
        resumed = await events.rest()

    assert [(event["event"], event["data"].get("text")) for event in told] == [
        ("stdout", "one\r\ntwo\n"),
        ("stderr", "bad \ufffd byte"),
        ("stdout", ""),
        ("stdout", "ü"),
        ("done", None),
    ]
    assert told[-1]["data"] == {"run_id": run_id, "status": "success"}
    assert resumed == told[1:]


async def test_an_ended_runs_logs_are_those_of_its_output(stage: Stage) -> None:
    run_id, out = new_run(), "o" * 40_000
    await stage.publish(run_id, "failed", output={"stdout": out, "stderr": "e\n"})
    _, text, headers = await stage.get(f"/v1/runs/{run_id}/logs")
    async with stage.events(f"/v1/runs/{run_id}/logs") as events:
        told = await events.rest()
    async with stage.events(f"/v1/runs/{run_id}/logs", **{"Last-Event-ID": told[1]["id"]}) as events:
        resumed = await events.rest()

    assert text.decode() == out + "e\n"
    assert headers["Content-Type"].startswith("text/plain")
    assert "".join(event["data"]["text"] for event in told if event["event"] == "stdout") == out
    assert resumed == told[2:]
    assert told[-1]["event"] == "done"


async def test_the_logs_of_a_running_run_are_what_is_there_so_far(stage: Stage) -> None:
    run_id = new_run()
    await stage.publish(run_id, "running")
    await stage.logs.append_logs(RunId(run_id), [("stdout", b"a"), ("stdout", b"b"), ("stderr", b"c")])
    status, text, _ = await stage.get(f"/v1/runs/{run_id}/logs")

    assert (status, text) == (200, b"abc")
