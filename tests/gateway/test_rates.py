"""Who asks too often is told so, when to come again and how things stand; and takes nothing from anybody else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import aiohttp
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from multidict import CIMultiDict

from runstore import AsyncClient
from runstore.client.config import ClientConfig
from runstore.core.errors import RateLimited
from runstore.core.principal import Scope
from runstore.gateway.addresses import network_of
from runstore.gateway.rates import Meter, Rates
from runstore.projector import Projector
from tests.gateway.builders import ADMIN, RUN_ID, Reply, Site, StandIn, site_over
from tests.gateway.issuer import issuing
from tests.gateway.limits import closed, error_of, hear, opened, subscribe, wire
from tests.waiting import happens

SLOW = {"requests_per_s": 0.01, "requests_burst_s": 1000.0}
"""Ten at once, and another in a minute or two."""

SiteOf = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
async def site_of(gateway_store: StandIn) -> AsyncIterator[SiteOf]:
    async with Projector(gateway_store.redis):
        yield lambda **config: site_over(gateway_store, **config)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def stop_the_clock(site: Site) -> Clock:
    """Let the buckets of a gateway fill up when the test says so, and not before."""
    clock, services = Clock(), site.gateway.services
    services.rates = Rates(services.config, clock)
    return clock


async def use_up(site: Site, token: str = ADMIN, path: str = "/v1/runs") -> list[Reply]:
    """Ask until the answer is 429, and return all answers."""
    replies = [await site.get(path, token=token)]
    while replies[-1].status != 429:
        replies.append(await site.get(path, token=token))
    return replies


def left(reply: Reply) -> int:
    match = re.fullmatch(r'"\w+";r=(\d+);t=(\d+)', reply.headers["RateLimit"])
    assert match is not None
    return int(match[1])


async def test_each_answer_says_how_many_are_left_and_the_last_when_to_come_again(site_of: SiteOf) -> None:
    async with site_of(**SLOW) as site:
        replies = await use_up(site)

    last = replies[-1]
    assert [left(reply) for reply in replies] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert {reply.headers["RateLimit-Policy"] for reply in replies} == {'"token";q=10;w=1000'}
    assert (last.code, last.headers["Content-Type"]) == ("rate_limited", "application/problem+json")
    assert 1 < int(last.headers["Retry-After"]) <= 100
    assert last.headers["RateLimit"] == f'"token";r=0;t={last.headers["Retry-After"]}'
    assert "0.01 requests a second by one token" in last.json()["detail"]
    assert "Retry-After" not in replies[0].headers


async def test_errors_and_addresses_that_do_not_exist_count_as_well(site_of: SiteOf) -> None:
    async with site_of(**SLOW) as site:
        paths = ["/v1/runs/zz", "/v1/nothing", "/v1/runs?limit=x", f"/v1/runs/{RUN_ID}"]

        assert [left(await site.get(path)) for path in paths] == [9, 8, 7, 6]


async def test_who_waits_as_told_is_let_in_again(site_of: SiteOf) -> None:
    async with site_of(requests_per_s=20, requests_burst_s=1) as site:
        await use_up(site)

        await happens(lambda: _is_let_in(site))


async def _is_let_in(site: Site) -> bool:
    return (await site.get("/v1/runs")).status == 200


async def test_what_one_token_uses_up_is_not_anothers(site_of: SiteOf) -> None:
    async with site_of(**SLOW) as site:
        other = await site.token(Scope.READ)
        await use_up(site)

        assert left(await site.get("/v1/runs", token=other)) == 9


async def test_many_tokens_of_one_run_or_subject_count_as_one(site_of: SiteOf) -> None:
    async with issuing() as issuer, site_of(jwt=issuer.config(), **SLOW) as site:
        run_id = await site.publish()
        made = [
            (await site.post(f"/v1/runs/{run_id}/token", {"expires_s": number})).json()["token"]
            for number in (600, 700)
        ]
        signed = [issuer.token("runs:read", jti=str(number)) for number in range(2)]

        for first, second in (made, signed):
            assert first != second
            await use_up(site, first, f"/v1/runs/{run_id}")
            assert (await site.get(f"/v1/runs/{run_id}", token=second)).status == 429
        other = issuer.token("runs:read", sub="somebody else")
        assert left(await site.get(f"/v1/runs/{run_id}", token=other)) == 9


async def test_strangers_are_counted_by_address_and_shut_out_nobody_who_has_a_token(site_of: SiteOf) -> None:
    async with site_of(stranger_requests_per_s=0.01, requests_burst_s=300.0) as site:
        replies = [await site.get("/v1/runs", token=token) for token in ("a", "b", None, "c", None)]
        known = await site.get("/v1/runs")

    assert [reply.status for reply in replies] == [401, 401, 401, 429, 429]
    assert replies[0].headers["RateLimit-Policy"] == '"stranger";q=3;w=300'
    assert "without a valid token" in replies[-1].json()["detail"]
    assert known.status == 200


async def test_whoever_probes_is_not_counted(site_of: SiteOf) -> None:
    async with site_of(stranger_requests_per_s=0.01, requests_burst_s=100.0, requests_per_s=0.01) as site:
        for path in ("/healthz", "/readyz"):
            assert {(await site.get(path, token=None)).status for _ in range(5)} == {200}


async def test_zero_counts_nothing_and_says_nothing(site_of: SiteOf) -> None:
    async with site_of(requests_per_s=0, stranger_requests_per_s=0) as site:
        replies = [await site.get("/v1/runs"), await site.get("/v1/runs", token=None)]

    assert [reply.status for reply in replies] == [200, 401]
    assert not any(name.startswith("RateLimit") for reply in replies for name in reply.headers)


async def test_a_page_of_another_origin_may_read_how_things_stand(site_of: SiteOf) -> None:
    async with site_of(allowed_origins=frozenset({"https://runs.example"})) as site:
        reply = await site.get("/v1/runs", headers={"Origin": "https://runs.example"})

    readable = {name.strip() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
    assert readable >= {"RateLimit", "RateLimit-Policy", "Retry-After"}


async def test_messages_on_a_websocket_count_and_the_connection_lives(site_of: SiteOf) -> None:
    async with site_of(requests_per_s=10, requests_burst_s=1) as site:
        clock = stop_the_clock(site)
        async with opened(site) as ws:
            for _ in range(12):
                await ws.send_str("nonsense")
            codes = [(await hear(ws))["code"] for _ in range(12)]
            await ws.send_str(subscribe(project_name="forecasts"))
            refused = await hear(ws)
            clock.now_s += 1
            await ws.send_str(subscribe(project_name="forecasts"))
            answered = await hear(ws)

    assert codes == ["invalid_request"] * 9 + ["rate_limited"] * 3
    assert (refused["type"], refused["id"], refused["code"]) == ("error", "a", "rate_limited")
    assert answered["type"] == "subscribed"


async def test_a_subscription_counts_by_the_runs_that_it_names(site_of: SiteOf) -> None:
    async with site_of(**SLOW) as site, opened(site) as ws:
        ids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(100)]

        await ws.send_str(subscribe(run_ids=ids[:60]))
        assert (await hear(ws))["type"] == "subscribed"
        await ws.send_str(subscribe(id="b", run_ids=ids))
        assert await error_of(ws) == "`error` `rate_limited`"
        reply = await site.get("/v1/runs")

    # one for the handshake, six for sixty runs, none for what was refused, and this
    assert left(reply) == 2


async def test_who_never_stops_is_read_no_faster_than_it_may_ask(site_of: SiteOf) -> None:
    async with site_of(requests_per_s=1, requests_burst_s=1) as site:
        stop_the_clock(site)
        async with opened(site) as ws:
            started = asyncio.get_running_loop().time()
            for _ in range(5):
                await ws.send_str("nonsense")
            codes = [(await hear(ws))["code"] for _ in range(3)]

    assert codes == ["rate_limited"] * 3
    assert asyncio.get_running_loop().time() - started > 0.5


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_agent_that_calls_tools_too_often_is_told_by_the_tool(
    site_of: SiteOf, mode: Literal["legacy", "auto"]
) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with (
        site_of(**SLOW) as site,
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(site.gateway.url + "/mcp", http_client=http), mode=mode) as agent,
    ):
        results = [await agent.call_tool("list_runs", {})]
        while not results[-1].is_error:
            results.append(await agent.call_tool("list_runs", {}))
        with pytest.raises(MCPError, match="requests a second"):
            await agent.list_prompts()

    failure = results[-1].structured_content
    assert len(results) > 2
    assert isinstance(failure, dict)
    assert (failure["error"], "call again" in failure["hint"]) == ("rate_limited", True)
    assert json.loads(results[-1].content[0].text) == failure  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {}}, 200),
        ({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}, 429),
        ({"jsonrpc": "2.0", "method": "tools/call"}, 429),
        ([], 429),
        (None, 429),
        ({"method": {}, "id": []}, 429),
    ],
)
async def test_any_message_that_comes_too_soon_says_when_to_come_again(site_of: SiteOf, body: Any, status: int) -> None:
    async with site_of(**SLOW) as site:
        await use_up(site)
        data = json.dumps(body).encode()
        reply = await site.post("/mcp", data=data, headers={"Content-Type": "application/json"})

    told = reply.json()
    assert (reply.status, told["jsonrpc"]) == (status, "2.0")
    assert ("result" in told) is (status == 200)
    assert int(reply.headers["Retry-After"]) > 1
    assert left(reply) == 0


async def test_the_client_waits_and_asks_again_by_itself(site_of: SiteOf) -> None:
    async with site_of(requests_per_s=20, requests_burst_s=1) as site:
        run_id = await site.publish(status="success", output={})
        async with AsyncClient(site.gateway.url, token=ADMIN, config=ClientConfig(retry_for_s=30)) as client:
            runs = await asyncio.gather(*(client.get_run(run_id) for _ in range(40)))

    assert {run.status for run in runs} == {"success"}


async def test_a_client_whose_token_has_too_much_open_waits_for_room_and_says_so_where_none_comes(
    site_of: SiteOf,
) -> None:
    async with site_of(connections_per_token=1) as site:
        run_id = await site.publish()
        impatient = ClientConfig(give_up_s=0.2, backoff_s=0.05)
        async with (
            AsyncClient(site.gateway.url, token=ADMIN) as client,
            AsyncClient(site.gateway.url, token=ADMIN, config=impatient) as other,
        ):
            async with opened(site):
                waiting = asyncio.create_task(client.wait(run_id, timeout_s=30))
                with pytest.raises(RateLimited, match="too much open"):
                    await other.wait(run_id)
            await site.publish(run_id, status="success")

            assert (await waiting).status == "success"


async def test_a_crowd_that_is_turned_away_is_cut_off(site_of: SiteOf) -> None:
    async with site_of(connections_per_address=1) as site, wire(site):
        server = site.gateway._runner.server  # type: ignore[union-attr]
        answers = []
        for turned_away in (0, 256):
            server.turned_away = turned_away  # type: ignore[attr-defined]
            async with wire(site) as (reader, _):
                answers.append((await reader.read())[:12])

    assert answers == [b"HTTP/1.1 429", b""]


async def hold_a_socket(site: Site, run_id: str) -> str:
    try:
        async with opened(site):
            return "let in"
    except aiohttp.WSServerHandshakeError as refused:
        return str(refused.status)


def ask(path: str, **headers: str) -> Callable[[Site, str], Any]:
    async def hold(site: Site, run_id: str) -> str:
        reply = await site.get(path.format(run_id), headers=headers)
        assert reply.headers["Retry-After"] == "1"
        assert "the limit is 1 websockets, streams and waiting answers" in reply.json()["detail"]
        return str(reply.status)

    return hold


async def run_and_wait(site: Site, run_id: str) -> str:
    reply = await site.post("/v1/runs", {"project_name": "forecasts", "mode": "sync"})
    return str(reply.status)


def call(tool: str, **arguments: Any) -> Callable[[Site, str], Any]:
    async def hold(site: Site, run_id: str) -> str:
        called = {"name": tool, "arguments": {**arguments, **({"run_id": run_id} if tool == "get_run" else {})}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
        reply = await site.post("/mcp", message, headers={"Accept": "application/json, text/event-stream"})
        return "429" if b'"rate_limited' in reply.body.replace(b"\\", b"") else reply.body.decode()

    return hold


@pytest.mark.parametrize(
    "hold",
    [
        hold_a_socket,
        ask("/v1/runs/{}/events", Accept="text/event-stream"),
        ask("/v1/runs/{}/logs", Accept="text/event-stream"),
        ask("/v1/runs/{}", Prefer="wait=60"),
        run_and_wait,
        call("get_run", wait_s=50),
        call("run", project_name="forecasts", mode="sync"),
    ],
    ids=["socket", "events", "logs", "wait", "sync", "get_run", "run"],
)
async def test_whatever_is_held_open_counts_for_its_token(site_of: SiteOf, hold: Callable[[Site, str], Any]) -> None:
    async with site_of(connections_per_token=1) as site:
        run_id = await site.publish()
        other = await site.token(Scope.READ)
        async with opened(site):
            refused = await hold(site, run_id)
            plain = await site.get(f"/v1/runs/{run_id}")
            async with opened(site, other):
                pass
        runs = (await site.get("/v1/runs")).json()["runs"]
        holds = site.gateway.services.holds
        await happens(lambda: len(holds) == 0)

    assert (refused, plain.status) == ("429", 200)
    assert [run["run_id"] for run in runs] == [run_id], "what was refused was run all the same"


async def test_what_was_held_is_free_again_however_it_ended(site_of: SiteOf) -> None:
    async with site_of(connections_per_token=4) as site:
        run_id = await site.publish()
        path = f"{site.gateway.url}/v1/runs/{run_id}"
        headers = {"Authorization": f"Bearer {ADMIN}"}
        holds = site.gateway.services.holds
        async with (
            opened(site) as ws,
            site.session.get(path + "/events", headers={**headers, "Accept": "text/event-stream"}) as events,
            site.session.get(path + "/logs", headers={**headers, "Accept": "text/event-stream"}),
        ):
            waiting = asyncio.create_task(site.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=60"}))
            await happens(lambda: len(holds) == 4)
            waiting.cancel()
            await happens(lambda: len(holds) == 3)
            await ws.send_bytes(b"closes with 1003")
            await closed(ws)
            await site.publish(run_id, status="success")
            await events.read()
            await happens(lambda: len(holds) == 0)


async def test_subscribed_runs_are_free_again_however_a_subscription_ends(site_of: SiteOf) -> None:
    async with site_of(runs_per_token=10) as site:
        ended, open_ = await site.publish(status="success"), await site.publish()
        subscribed = site.gateway.services.subscribed
        async with opened(site) as ws:
            await ws.send_str(subscribe(id="done", run_ids=[ended]))
            await ws.send_str(subscribe(id="left", run_ids=[open_]))
            await ws.send_str(subscribe(id="lost", run_ids=[open_, ended]))
            await ws.send_str(subscribe(id="wrong", run_ids=["ffffffff"]))
            await ws.send_str(subscribe(id="wronger", run_ids=["?"]))
            await ws.send_str(subscribe(id="project", project_name="forecasts"))
            await ws.send_str(json.dumps({"type": "unsubscribe", "id": "left"}))
            heard = [await hear(ws)]
            while heard[-1].get("id") != "project":
                heard.append(await hear(ws))
            assert len(subscribed) == 2, heard
        await happens(lambda: len(subscribed) == 0)


async def test_subscriptions_that_cannot_begin_do_not_pile_up(site_of: SiteOf, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site_of(max_subscriptions=2) as site, opened(site) as ws:
        lookup, gate = site.gateway.services.lookup, asyncio.Event()
        real = lookup.record_for

        async def held(*args: Any) -> Any:
            await gate.wait()
            return await real(*args)

        rates, read = site.gateway.services.rates, []
        monkeypatch.setattr(lookup, "record_for", held)
        monkeypatch.setattr(rates, "spend_on_message", lambda *spent: read.append(spent))
        await ws.send_str(subscribe(id="first", run_ids=[RUN_ID]))
        for number in range(10):
            await ws.send_str(subscribe(id=str(number), run_ids=[RUN_ID]))
            await ws.send_str(json.dumps({"type": "unsubscribe", "id": str(number)}))
        await ws.send_str(subscribe(id="last", project_name="no good name"))
        await happens(lambda: len(read) == 22)
        gate.set()
        refused = []
        while not refused or refused[-1]["id"] != "last":
            message = await hear(ws)
            refused += [message] if message["type"] == "error" else []

    assert [message["code"] for message in refused].count("rate_limited") >= 6


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("", ""),
    ],
)
def test_addresses_that_one_network_can_choose_count_as_one(address: str, counted_as: str) -> None:
    assert network_of(address) == counted_as


def test_a_meter_tells_a_bucket_as_it_stands() -> None:
    now_s = 0.0
    meter = Meter("token", "by one token", 2.0, 3.0, lambda: now_s)
    standings = []

    for _ in range(8):
        used_s = meter.take("a")
        headers: CIMultiDict[str] = CIMultiDict()
        meter.tell(headers, used_s)
        standings.append(headers["RateLimit"])
    with pytest.raises(RateLimited) as refused:
        meter.check(used_s)
    now_s = refused.value.retry_after_s

    meter.check(meter.take("a"))
    assert headers["RateLimit-Policy"] == '"token";q=6;w=3'
    assert standings[0] == '"token";r=5;t=1'
    assert standings[5:] == ['"token";r=0;t=3', '"token";r=0;t=1', '"token";r=0;t=1']
