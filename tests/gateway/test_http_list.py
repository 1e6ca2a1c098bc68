"""`GET /v1/runs`."""

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from runstore.core.principal import Scope
from tests.gateway.builders import Site

KEYS = ["run_id", "run_number", "project_name", "status", "commit_sha", "started_at", "finished_at", "error_message"]


async def listed(site: Site, query: str = "", **options: Any) -> list[str]:
    reply = await site.get(f"/v1/runs{query}", **options)
    assert reply.status == 200, reply.body
    return [run["run_id"] for run in reply.json()["runs"]]


async def test_runs_are_listed_newest_first_without_their_output(site: Site) -> None:
    first = await site.publish(status="success", output={"stdout": "x"}, tags=["nightly"])
    second = await site.publish()

    reply = await site.get("/v1/runs")

    assert [run["run_id"] for run in reply.json()["runs"]] == [second, first]
    assert list(reply.json()["runs"][1]) == [*KEYS, "truncated", "created_at", "tags"]
    assert reply.json()["next_cursor"] is None
    assert reply.headers["Runstore-Cursor"]


async def test_a_walk_along_cursors_shows_each_run_once(site: Site) -> None:
    run_ids = await asyncio.gather(*(site.publish() for _ in range(23)))
    seen: list[str] = []
    cursor = ""

    while True:
        page = (await site.get(f"/v1/runs?limit=5{cursor}")).json()
        seen += [run["run_id"] for run in page["runs"]]
        await site.publish()
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert sorted(seen) == sorted(run_ids)


async def test_filters_narrow_the_listing(site: Site) -> None:
    sha = "abc1234def5678901234567890abcdef12345678"
    a = await site.publish(status="success", commit_sha=sha, tags=["x", "y"])
    b = await site.publish(status="failed", tags=["x"])
    c = await site.publish(project_name="secrets")

    assert await listed(site, "?status=success&status=failed") == [b, a]
    assert await listed(site, "?status=") == [c, b, a]
    assert await listed(site, "?project_name=secrets") == [c]
    assert await listed(site, "?commit_sha=abc1234") == [a]
    assert await listed(site, "?tag=x") == [b, a]
    assert await listed(site, "?tag=x&tag=y") == [a]
    assert await listed(site, "?created_after=2999-01-01") == []
    assert await listed(site, "?created_before=2999-01-01T00:00:00+00:00&limit=200") == [c, b, a]
    assert await listed(site, "?finished_after=2020-01-01T00:00:00%2B00:00") == [b, a]


async def test_the_times_of_a_window_are_not_in_it_however_they_are_written(site: Site) -> None:
    for _ in range(3):
        await site.publish()
    created = [run["created_at"] for run in (await site.get("/v1/runs")).json()["runs"]]
    newest, middle, oldest = (datetime.fromisoformat(at) for at in created)
    elsewhere = middle.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    spellings = [middle.isoformat(), middle.isoformat(" "), elsewhere, middle.strftime("%Y-%m-%dt%H:%M:%S.%fz")]
    after, before = sum(at > middle for at in (newest, oldest)), sum(at < middle for at in (newest, oldest))

    for spelling in (*spellings, *(quote(text) for text in spellings)):
        asked = spelling.replace(" ", "%20")
        assert len(await listed(site, f"?created_after={asked}")) == after, spelling
        assert len(await listed(site, f"?created_before={asked}")) == before, spelling


async def test_a_window_that_ends_before_it_begins_is_empty(site: Site) -> None:
    await site.publish()
    window = "created_after=2030-01-01&created_before=2020-01-01"

    assert await listed(site, f"?{window}") == []
    assert await listed(site, f"?{window}&status=failed") == []


async def test_only_what_the_caller_may_read_is_listed(site: Site) -> None:
    mine = await site.publish()
    await site.publish(project_name="secrets")
    token = await site.token(Scope.READ, projects=("forecasts",))

    assert await listed(site, token=token) == [mine]
    assert await listed(site, "?project_name=secrets", token=token) == []
    assert await listed(site, "?project_name=nothing", token=token) == []


BAD = [
    "limit=0",
    "limit=201",
    "limit=x",
    "limit=",
    "limit=1&limit=2",
    "status=done",
    "project_name=",
    "project_name=a b",
]
BAD += ["tag=", "tag=" + "x" * 65, "commit_sha=", "created_after=yesterday", "created_before=", "cursor=x", "cursor="]
BAD += [
    "finished_after=1969-01-01",
    "cursor=" + "A" * 300,
    "after=zz",
    "nothing=1",
    "Limit=5",
    "project_name=a&project_name=b",
]


async def test_a_filter_that_is_none_is_told_which(site: Site) -> None:
    for query in BAD:
        reply = await site.get(f"/v1/runs?{quote(query, safe='=&')}")

        assert (reply.status, reply.code) == (422, "invalid_request"), query


async def test_a_misspelt_filter_is_answered_with_the_nearest(site: Site) -> None:
    replies = [await site.get(f"/v1/runs?{query}") for query in ("project=x", "status=sucess")]

    assert ["'project_name'" in replies[0].json()["detail"], "'success'" in replies[1].json()["detail"]] == [True, True]
