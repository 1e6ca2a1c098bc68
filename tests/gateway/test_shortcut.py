"""The short way to a run that has ended gives what the long way gives, and is shut where that is."""

import re

import pytest

from tests.gateway.builders import RUN_ID, Reply, Site, site_over

LONG_WAY = {"Accept": "application/json"}
VARIES = {"Date", "RateLimit", "X-Request-Id"}


def told(reply: Reply) -> tuple[int, bytes, dict[str, str]]:
    return reply.status, reply.body, {name: value for name, value in reply.headers.items() if name not in VARIES}


@pytest.fixture
async def run_id(site: Site) -> str:
    run_id = await site.publish(RUN_ID, status="success", output={"stdout": "done"})
    await site.get(f"/v1/runs/{run_id}")  # from here on its answer is kept
    return run_id


async def test_the_short_way_gives_every_header_that_the_long_way_gives(site: Site, run_id: str) -> None:
    short, long = [await site.get(f"/v1/runs/{run_id}", headers=headers) for headers in ({}, LONG_WAY)]

    assert short.status == 200
    assert told(short) == told(long)
    assert set(short.headers) == set(long.headers)


async def test_who_has_no_valid_token_is_told_the_same_on_both_ways(site: Site, run_id: str) -> None:
    for token in (None, "rst_" + "0" * 36):
        short, long = [await site.get(f"/v1/runs/{run_id}", token=token, headers=headers) for headers in ({}, LONG_WAY)]

        assert short.status == 401
        assert told(short) == told(long)


async def test_a_request_is_counted_once_whichever_way_it_goes(site: Site, run_id: str) -> None:
    async with site_over(site.store, requests_per_s=0.01, requests_burst_s=1000) as other:  # ten at once
        replies = [
            await other.get(f"/v1/runs/{name}", headers=headers)
            for name in (run_id, "7" * 8 + run_id[8:])
            for headers in ({}, LONG_WAY)
        ]

    assert [re.sub(r";t=.*", "", reply.headers["RateLimit"]) for reply in replies] == [
        f'"token";r={left}' for left in (9, 8, 7, 6)
    ]
