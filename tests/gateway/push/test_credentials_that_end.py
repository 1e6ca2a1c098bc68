"""Whatever is open when its credential ends is closed within seconds, and nothing more is sent on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from runstore.core.principal import Scope
from runstore.gateway.jwt_config import JwtTiming
from runstore.projector import Projector
from runstore.wire.keys import RUN_TOKEN_KEYS
from tests.gateway.builders import Site, StandIn, site_over
from tests.gateway.issuer import Issuer, an_rsa_key, issuing
from tests.gateway.push.stage import Events, Socket

Later = Callable[[], Awaitable[object]]
End = Callable[["Door"], Awaitable[tuple[str, Later]]]


class Door:
    """A gateway, the issuer it takes JWTs of, and a clock that can be put forward."""

    def __init__(self, site: Site, issuer: Issuer, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        self.issuer = issuer
        self.run_id = run_id
        self._monkeypatch = monkeypatch

    async def put_clock_forward(self) -> None:
        real, by_s = time.time, 1000
        self._monkeypatch.setattr(time, "time", lambda: real() + by_s)

    async def run_token(self, maker: str, **body: Any) -> str:
        reply = await self.site.post(f"/v1/runs/{self.run_id}/token", body or None, token=maker)
        return str(reply.json()["token"])


@pytest.fixture
async def door(gateway_store: StandIn, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    async with (
        issuing() as issuer,
        Projector(gateway_store.redis),
        site_over(gateway_store, jwt=issuer.config(), jwt_timing=JwtTiming(refresh_s=0.05)) as site,
    ):
        yield Door(site, issuer, await site.publish(status="running"), monkeypatch)


async def a_revoked_api_token(door: Door) -> tuple[str, Later]:
    token = await door.site.token(Scope.READ)
    return token, lambda: door.site.store.tokens.revoke(token)


async def an_expired_api_token(door: Door) -> tuple[str, Later]:
    return await door.site.token(Scope.READ, expires_at_s=int(time.time()) + 500), door.put_clock_forward


async def an_expired_jwt(door: Door) -> tuple[str, Later]:
    return door.issuer.token("runs:read", exp=int(time.time()) + 500), door.put_clock_forward


async def a_jwt_whose_key_was_withdrawn(door: Door) -> tuple[str, Later]:
    async def withdraw() -> None:
        door.issuer.keys = {"second": an_rsa_key("rotated")}

    return door.issuer.token("runs:read"), withdraw


async def an_expired_run_token(door: Door) -> tuple[str, Later]:
    return await door.run_token(await door.site.token(Scope.READ), expires_s=500), door.put_clock_forward


async def a_run_token_whose_maker_was_revoked(door: Door) -> tuple[str, Later]:
    maker = await door.site.token(Scope.READ)
    return await door.run_token(maker), lambda: door.site.store.tokens.revoke(maker)


async def a_run_token_whose_key_was_taken_out(door: Door) -> tuple[str, Later]:
    token = await door.run_token(await door.site.token(Scope.READ))
    return token, lambda: door.site.store.redis.client.execute_command("DEL", RUN_TOKEN_KEYS)


ENDS = [
    a_revoked_api_token,
    an_expired_api_token,
    an_expired_jwt,
    a_jwt_whose_key_was_withdrawn,
    an_expired_run_token,
    a_run_token_whose_maker_was_revoked,
    a_run_token_whose_key_was_taken_out,
]


async def rest(response: aiohttp.ClientResponse) -> bytes:
    """Read a stream to its end, however it ends."""
    told = b""
    try:
        async for piece in response.content.iter_any():
            told += piece
    except aiohttp.ClientError:
        pass
    return told


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_is_open_is_closed_and_nothing_more_is_sent(door: Door, end: End) -> None:
    token, bring_about = await end(door)
    site, url = door.site, door.site.gateway.url
    path = f"/v1/runs/{door.run_id}"
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    offered = ["runstore.v1", f"runstore.bearer.{token}"]
    async with (
        site.session.ws_connect(url + "/v1/ws", protocols=offered) as ws,
        site.session.get(f"{url}{path}/events", headers=headers) as events,
        site.session.get(f"{url}{path}/logs", headers=headers) as logs,
    ):
        socket = Socket(ws)
        await socket.subscribe(run_ids=[door.run_id], events="all")
        assert [(await socket.hear())["type"] for _ in range(2)] == ["subscribed", "run"]
        assert (await Events(events).hear() or {})["data"]["status"] == "running"
        assert logs.status == 200
        waiting = asyncio.create_task(site.get(path, token=token, headers={"Prefer": "wait=60"}))

        await bring_about()
        closed = await socket.closed()
        told = await rest(events), await rest(logs)
        waited = await waiting
        await site.publish(door.run_id, status="success")

    assert closed == 4401
    assert all(b"success" not in text for text in told)
    assert (waited.status, waited.code) == (401, "unauthorized")
    assert (await site.get(path, token=token)).status == 401


async def test_an_answer_that_waited_for_the_projector_is_not_given_to_a_token_that_has_ended_meanwhile(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await door.site.token(Scope.READ)
    path = f"/v1/runs/{door.run_id}"
    cursor = (await door.site.get(path, token=token)).headers["Runstore-Cursor"]
    tail, reached, gate = door.site.gateway.services.tail, asyncio.Event(), asyncio.Event()
    real = tail.reached

    async def held(*args: Any) -> None:
        reached.set()
        await gate.wait()
        await real(*args)

    monkeypatch.setattr(tail, "reached", held)
    waiting = asyncio.create_task(door.site.get(f"{path}?after={cursor}", token=token))
    await reached.wait()
    await door.site.store.tokens.revoke(token)
    while (await door.site.get("/v1/runs", token=token)).status != 401:
        pass
    gate.set()

    assert (await waiting).status == 401


async def test_the_credential_of_one_ends_nothing_of_another(door: Door) -> None:
    ending, staying = await door.site.token(Scope.READ), await door.site.token(Scope.READ)
    by_run_token = await door.run_token(staying)
    url = door.site.gateway.url + "/v1/ws"
    async with (
        door.site.session.ws_connect(url, protocols=["runstore.v1", f"runstore.bearer.{ending}"]) as first,
        door.site.session.ws_connect(url, protocols=["runstore.v1", f"runstore.bearer.{staying}"]) as second,
        door.site.session.ws_connect(url, protocols=["runstore.v1", f"runstore.bearer.{by_run_token}"]) as third,
    ):
        await door.site.store.tokens.revoke(ending)

        assert await Socket(first).closed() == 4401
        for ws in (second, third):
            await Socket(ws).subscribe(run_ids=[door.run_id])
            assert (await Socket(ws).hear())["type"] == "subscribed"
