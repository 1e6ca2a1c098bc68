"""A gateway whose replicas are away: what is safe is answered, what is not is 503, and is pushed once it is safe."""

import asyncio
import json
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.gateway import Gateway, GatewayConfig
from runstore.ports import TokenRecord
from runstore.projector import Projector
from tests.projector.builders import event_of, run_id_of
from tests.topology.servers import Pair
from tests.waiting import happens

pytestmark = pytest.mark.slow
RUN, OTHER = run_id_of(1), run_id_of(2, partition=0)
TOKEN = "rst_topology"


async def test_nothing_is_told_that_could_be_taken_back(servers: Pair) -> None:
    async with (
        RedisStore.open(servers.primary.url, durability="replicated", timeout_s=2.0) as store,
        Projector(store),
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
    ):
        await store.tokens.put(_admin())
        gateway = Gateway(store, GatewayConfig(port=0, ready_lag_s=1.0, ready_every_s=0.2))
        await gateway.start()
        try:
            await store.log.append(OTHER, event_of(OTHER, "success"))
            await store.log.append(RUN, event_of(RUN, "running"))
            await happens(lambda: _is(session, gateway, f"/v1/runs/{RUN}", 200))
            assert await _is(session, gateway, f"/v1/runs/{OTHER}", 200)
            async with session.ws_connect(gateway.url + "/v1/ws", protocols=("runstore.v1",)) as ws:
                await ws.send_str(json.dumps({"type": "subscribe", "id": "a", "run_ids": [RUN]}))
                assert (await ws.receive_json())["type"] == "subscribed"
                servers.replica.freeze()
                event = event_of(RUN, "success")
                await store.client.execute_command("XADD", store.meta.keys_of(RUN).events, "*", "event", event)
                await happens(lambda: _is(session, gateway, "/readyz", 503))

                status, headers, body = await _get(session, gateway, f"/v1/runs/{RUN}")
                assert (status, body["code"]) == (503, "store_unavailable")
                assert "Retry-After" in headers
                assert (await _get(session, gateway, "/v1/runs"))[0] == 503
                assert (await _get(session, gateway, f"/v1/runs/{OTHER}"))[0] == 200
                servers.replica.thaw()

                pushed = await asyncio.wait_for(ws.receive_json(), 30)
                assert (pushed["type"], pushed["run"]["status"]) == ("run", "success")
                assert (await _get(session, gateway, f"/v1/runs/{RUN}"))[2]["status"] == "success"
                await happens(lambda: _is(session, gateway, "/readyz", 200))
        finally:
            await gateway.stop()


def _admin() -> TokenRecord:
    digest = sha256(TOKEN.encode()).hexdigest()
    return TokenRecord(name="all", hash=digest, scopes=(Scope.ADMIN,), projects=None, created_at_s=1)


async def _get(session: aiohttp.ClientSession, gateway: Gateway, path: str) -> tuple[int, Any, Any]:
    async with session.get(gateway.url + path) as response:
        return response.status, response.headers, json.loads(await response.read() or b"null")


async def _is(session: aiohttp.ClientSession, gateway: Gateway, path: str, status: int) -> bool:
    async with session.get(gateway.url + path) as response:
        return response.status == status
