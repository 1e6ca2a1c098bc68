"""A store has as many partitions as it was made with, be it one or a thousand."""

import json
from uuid import uuid4

import pytest

from runstore.adapters.store import RedisStore
from runstore.projector import Projector
from tests.gateway.builders import ADMIN, StandIn, site_over
from tests.projector.builders import tell


@pytest.mark.parametrize("partitions", [1, 3, 1024])
async def test_runs_are_found_listed_pushed_and_resumed(redis_url: str, partitions: int) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    one, two = sorted(str(uuid4()) for _ in range(2))
    async with RedisStore.open(redis_url, partitions=partitions) as store:
        projector = Projector(store)
        async with site_over(StandIn(store)) as site:
            await tell(store, one, "success")
            await projector.drain()
            async with site.session.ws_connect(site.gateway.ws_url, headers=headers, protocols=["runstore.v1"]) as ws:
                await ws.send_json({"type": "subscribe", "id": "p", "project_name": "forecasts"})
                cursor = (await ws.receive_json())["cursor"]
            await tell(store, two, "failed")
            await projector.drain()

            assert (await site.get(f"/v1/runs/{one[:8]}")).json()["run_id"] == one
            page = await site.get("/v1/runs?project_name=forecasts")
            assert [run["run_id"] for run in page.json()["runs"]] == [two, one]
            async with site.session.ws_connect(site.gateway.ws_url, headers=headers, protocols=["runstore.v1"]) as ws:
                await ws.send_json({"type": "subscribe", "id": "p", "project_name": "forecasts", "cursor": cursor})
                assert json.loads((await ws.receive()).data)["type"] == "subscribed"
                assert (await ws.receive_json())["run"]["run_id"] == two
