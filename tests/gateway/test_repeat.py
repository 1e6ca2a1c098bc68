"""A look-up like the last one of its connection is answered as any other, and never taken for what it is not."""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from runstore.core.principal import Scope
from runstore.gateway.repeat import Head
from tests.gateway.builders import ADMIN, RUN_ID, Reply, Site, site_over
from tests.gateway.limits import SOON_S, head, wire
from tests.waiting import happens

REQUEST_ID = re.compile(rb',"request_id":"[0-9a-f]+"')
VARIES = {"Date", "RateLimit", "X-Request-Id"}
OTHER = "77777777-7777-7777-7777-777777777777"
SECRET = "88888888-8888-8888-8888-888888888888"


class Watched:
    """What answers repeats, and how many it has answered."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.answered = 0

    def answer(self, last: Head, data: bytes) -> bytes | None:
        answer: bytes | None = self._inner.answer(last, data)
        self.answered += answer is not None
        return answer


class Line:
    """One connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, raw: bytes) -> None:
        self._writer.write(raw)

    async def hear(self, *, has_body: bool = True) -> Reply:
        async with asyncio.timeout(SOON_S):
            first, *fields = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = dict(field.split(": ", 1) for field in fields if field)
            size = int(headers.get("Content-Length", "0")) if has_body else 0
            return Reply(int(first.split()[1]), headers, await self._reader.readexactly(size))

    async def ask(self, raw: bytes, *, has_body: bool = True) -> Reply:
        self.send(raw)
        return await self.hear(has_body=has_body)


def look(run_id: str = RUN_ID, *lines: str, token: str = ADMIN) -> bytes:
    return head(f"GET /v1/runs/{run_id}", *lines).replace(ADMIN.encode(), token.encode())


def told(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in reply.headers.items() if name not in VARIES}
    return reply.status, headers, REQUEST_ID.sub(b"", reply.body)


def watch(site: Site) -> Watched:
    server: Any = site.gateway._runner.server  # type: ignore[union-attr]
    server.repeats = Watched(server.repeats)
    watched: Watched = server.repeats
    return watched


@asynccontextmanager
async def line(site: Site) -> AsyncIterator[Line]:
    async with wire(site) as (reader, writer):
        yield Line(reader, writer)


@asynccontextmanager
async def warm(site: Site, token: str = ADMIN) -> AsyncIterator[Line]:
    """A connection on which look-ups are repeats."""
    async with line(site) as made:
        for _ in range(2):
            assert (await made.ask(look(token=token))).status == 200
        yield made


@pytest.fixture
async def runs(site: Site) -> Site:
    for run_id in (RUN_ID, OTHER):
        await site.publish(run_id, status="success", output={"stdout": run_id})
        await site.get(f"/v1/runs/{run_id}")  # from here on its answer is kept
    await site.publish(SECRET, status="failed", project_name="secrets")
    await site.get(f"/v1/runs/{SECRET}")
    return site


async def test_a_repeat_is_answered_as_the_long_way_answers(runs: Site) -> None:
    watched = watch(runs)

    async with warm(runs) as made:
        replies = [await made.ask(look(run_id)) for run_id in (RUN_ID, OTHER)]
        long = [await made.ask(look(run_id, "Accept: text/*, */*")) for run_id in (RUN_ID, OTHER)]

    assert watched.answered == 3
    assert [told(reply) for reply in replies] == [told(reply) for reply in long]
    assert [set(reply.headers) for reply in replies] == [set(reply.headers) for reply in long]


@pytest.mark.parametrize(
    "asked",
    [
        look(RUN_ID, "If-None-Match: *"),
        look(RUN_ID, "Prefer: wait=1"),
        look(RUN_ID, "Accept: image/png"),
        look(RUN_ID, "Origin: https://elsewhere.example"),
        look(RUN_ID, "Content-Length: 0"),
        look(RUN_ID[:8]),
        look(RUN_ID.replace("-", "")),
        look("9" * 8 + RUN_ID[8:]),
        look(RUN_ID + "/events"),
        look(RUN_ID + "?after=x"),
        look("é" * 18),
        look(RUN_ID, token="nobodys-token-at-all"),
        look(RUN_ID, "Authorization: Bearer another"),
        head(f"HEAD /v1/runs/{RUN_ID}"),
        head(f"POST /v1/runs/{RUN_ID}"),
        head("GET /healthz"),
        look().replace(b"HTTP/1.1", b"HTTP/1.0"),
        look().replace(b"Host: x", b"Host : x"),
        look(RUN_ID, "Connection: close"),
    ],
)
async def test_whatever_else_comes_on_the_connection_is_answered_as_on_its_own(runs: Site, asked: bytes) -> None:
    has_body = not asked.startswith(b"HEAD")
    async with line(runs) as alone:
        expected = await alone.ask(asked, has_body=has_body)

    async with warm(runs) as made:
        reply = await made.ask(asked, has_body=has_body)

    assert told(reply) == told(expected)


async def test_after_something_else_look_ups_are_repeats_again(runs: Site) -> None:
    watched = watch(runs)

    async with warm(runs) as made:
        for _ in range(10):
            await made.ask(head("GET /healthz"))
            before = watched.answered
            replies = [await made.ask(look()) for _ in range(2)]
            assert [reply.status for reply in replies] == [200, 200]
            assert watched.answered == before + 1


async def test_what_belongs_to_a_head_that_is_not_whole_is_no_repeat(runs: Site) -> None:
    connections = runs.gateway._runner.server._connections  # type: ignore[union-attr]
    known = set(connections)
    async with warm(runs) as made:
        (connection,) = set(connections) - known
        made.send(b"GET /healthz HTTP/1.1\r\nX-Rest: ")
        await happens(lambda: connection._head_bytes > 0)

        reply = await made.ask(look())
        after = await made.ask(look())

    assert (reply.status, "Runstore-Cursor" in reply.headers) == (200, False)
    assert after.headers["Runstore-Cursor"]


async def test_what_belongs_to_a_body_is_no_repeat(runs: Site) -> None:
    async with warm(runs) as made:
        body = look()
        made.send(head(f"POST /v1/runs/{RUN_ID}/transitions", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert (await made.hear()).status == 100

        reply = await made.ask(body)

    assert reply.code == "invalid_request" or reply.status == 415


@pytest.mark.parametrize("seed", range(4))
async def test_requests_cut_anywhere_are_each_answered_once_and_in_order(runs: Site, seed: int) -> None:
    rng = random.Random(seed)
    asked = [rng.choice([RUN_ID, OTHER, SECRET]) for _ in range(40)]
    stream = b"".join(map(look, asked))
    cuts = sorted({0, len(stream), *(rng.randrange(len(stream)) for _ in range(rng.choice([2, 20, 200])))})
    size = len(look())
    cuts = sorted({*cuts, *(size * number for number in range(40) if rng.random() < 0.7)})

    async with line(runs) as made:
        for start, stop in pairwise(cuts):
            made.send(stream[start:stop])
            await asyncio.sleep(0)
        replies = [await made.hear() for _ in asked]

    assert [reply.json()["run_id"] for reply in replies] == asked


async def test_two_in_one_piece_are_both_answered(runs: Site) -> None:
    async with warm(runs) as made:
        made.send(look(OTHER) + look(RUN_ID))
        replies = [await made.hear() for _ in range(2)]

    assert [reply.json()["run_id"] for reply in replies] == [OTHER, RUN_ID]


async def test_a_repeat_is_refused_once_its_token_is_revoked(runs: Site) -> None:
    token = await runs.token(Scope.READ)

    async with warm(runs, token) as made:
        await runs.store.tokens.revoke(token)
        async with asyncio.timeout(SOON_S):
            while (await made.ask(look(token=token))).status == 200:
                pass
        reply = await made.ask(look(token=token))

    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_a_repeat_is_refused_once_its_token_has_expired(runs: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await runs.token(Scope.READ, expires_at_s=4_000_000_000)

    async with warm(runs, token) as made:
        monkeypatch.setattr("runstore.gateway.auth.time.time", lambda: 4_000_000_001.0)
        reply = await made.ask(look(token=token))

    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_a_repeat_is_not_answered_while_it_is_not_known_whether_the_token_still_holds(runs: Site) -> None:
    watched = watch(runs)

    async with warm(runs) as made:
        runs.gateway._credentials._tokens._stale_s = 0.0
        before = watched.answered
        reply = await made.ask(look())

    assert (reply.status, watched.answered) == (200, before)


async def test_a_repeat_tells_nothing_of_a_run_out_of_reach(runs: Site) -> None:
    token = await runs.token(Scope.READ, projects=("forecasts",))
    unknown = str(uuid4())

    async with warm(runs, token) as made:
        replies = [await made.ask(look(run_id, token=token)) for run_id in (SECRET, unknown)]

    assert [reply.status for reply in replies] == [404, 404]
    secret, none = (told(reply)[2] for reply in replies)
    assert secret.replace(SECRET.encode(), b"") == none.replace(unknown.encode(), b"")


async def test_a_run_token_is_good_for_its_run_only_in_repeats_too(runs: Site) -> None:
    token = (await runs.post(f"/v1/runs/{RUN_ID}/token")).json()["token"]

    async with warm(runs, token) as made:
        replies = [await made.ask(look(run_id, token=token)) for run_id in (RUN_ID, OTHER)]

    assert [reply.status for reply in replies] == [200, 404]


async def test_repeats_are_counted_and_refused_as_all_requests_are(runs: Site) -> None:
    async with site_over(runs.store, requests_per_s=0.01, requests_burst_s=1000) as other:  # ten at once
        await other.get(f"/v1/runs/{RUN_ID}")
        async with line(other) as made:
            replies = [await made.ask(look()) for _ in range(11)]

    lefts = [reply.headers["RateLimit"].split(";")[1] for reply in replies]
    assert [reply.status for reply in replies] == [200] * 9 + [429] * 2
    assert lefts == [f"r={left}" for left in (8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0)]
    assert replies[-1].headers["Retry-After"]


async def test_what_is_not_kept_any_more_is_looked_up_again(runs: Site) -> None:
    watched = watch(runs)

    async with warm(runs) as made:
        runs.gateway.services.lookup.forget_all()
        before, asked = watched.answered, runs.store.runs.asked
        replies = [await made.ask(look()) for _ in range(3)]

    assert [reply.status for reply in replies] == [200] * 3
    assert runs.store.runs.asked > asked
    assert watched.answered == before + 2  # all but the first


async def test_look_ups_of_runs_that_have_not_ended_do_not_end_the_repeats(runs: Site) -> None:
    watched, live = watch(runs), await runs.publish()

    async with warm(runs) as made:
        replies = [await made.ask(look(live)) for _ in range(10)]
        before = watched.answered
        await made.ask(look())

    assert [(reply.status, reply.json()["status"]) for reply in replies] == [(200, "running")] * 10
    assert watched.answered == before + 1


async def test_a_client_that_changes_every_head_is_answered_all_the_same(runs: Site) -> None:
    async with line(runs) as made:
        replies = [await made.ask(look(RUN_ID, f"X-Number: {number}")) for number in range(20)]

    assert {reply.status for reply in replies} == {200}


async def test_every_look_up_is_in_the_access_log_where_that_is_kept(
    runs: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runstore.gateway.access")

    async with line(runs) as made:
        for _ in range(4):
            await made.ask(look())

    assert len([record for record in caplog.records if record.name == "runstore.gateway.access"]) == 4


async def test_a_connection_of_repeats_is_not_idle(runs: Site) -> None:
    async with warm(runs) as made:
        connection = runs.gateway._runner.server.connections[-1]  # type: ignore[union-attr]
        before_s = connection._next_keepalive_close_time
        await made.ask(look())

    assert connection._next_keepalive_close_time > before_s
