"""runstore.js in a real Chromium, against gateway processes that are killed and started again."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from runstore import AsyncPublisher
from runstore.adapters.store import RedisStore
from runstore.core.principal import Scope
from runstore.ports import TokenRecord
from runstore.projector import Projector
from tests.cli.processes import started
from tests.sdk.live import live
from tests.sdk.test_live import Proxy
from tests.waiting import happens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
TOKEN = "rst_" + 36 * "0"
BEGIN = """async ([token, awaited]) => {
  const { Client } = await import(new URL("static/runstore.js", location.href));
  const client = (window.client = new Client(location.origin, { token }));
  window.heard = [];
  window.states = [];
  client.addEventListener("link", (event) => window.states.push(event.detail.state));
  const watch = client.watch({ projectName: "forecasts", events: "all" });
  (async () => { for await (const run of watch) window.heard.push([run.run_id, run.status]); })();
  window.waits = Promise.all(awaited.map((runId) => client.wait(runId)));
  await watch.ready();
}"""
WAIT = """async ([token, runId]) => {
  const { Client } = await import(new URL("/static/runstore.js", location.href));
  const client = new Client(location.origin, { token });
  const states = [];
  client.addEventListener("link", (event) => states.push(event.detail.state));
  const run = await client.wait(runId);
  return [run.status, states.includes("streams")];
}"""


async def test_nothing_is_missed_and_no_end_told_twice_while_gateways_are_killed(
    redis_url: str, chromium: Any, tmp_path: Path
) -> None:
    rounds, each = 3, 5
    ids = [[str(uuid4()) for _ in range(each)] for _ in range(rounds)]
    everything = [run_id for one in ids for run_id in one]
    async with (
        RedisStore.open(redis_url) as store,
        Projector(store),
        AsyncPublisher(redis_url, "forecasts") as publisher,
    ):
        digest = sha256(TOKEN.encode()).hexdigest()
        await store.tokens.put(TokenRecord(name="t", hash=digest, scopes=(Scope.READ,), projects=None, created_at_s=0))
        page, port = await chromium.new_page(), "0"
        page.set_default_timeout(60_000)
        for number, round_ids in enumerate(ids):
            words = ("gateway", "--redis-url", redis_url, "--port", port)
            with started(*words, folder=tmp_path) as gateway:
                if number == 0:
                    port = gateway.url.rpartition(":")[2]
                    await page.goto(gateway.url + "/")
                    await page.evaluate(BEGIN, [TOKEN, everything])
                for run_id in round_ids:
                    await publisher.publish(run_id=run_id, status="running")
                await page.wait_for_function("(n) => window.heard.length >= n", arg=2 * number * each + 1)
                gateway.process.kill()
                gateway.process.wait()
            for run_id in round_ids:
                await publisher.publish(run_id=run_id, status="success", output={"outputs": {"n": 1}})
        with started("gateway", "--redis-url", redis_url, "--port", port, folder=tmp_path):
            ended = await page.evaluate("window.waits")
            await page.wait_for_function("(n) => window.heard.length >= n", arg=2 * len(everything))
            heard = await page.evaluate("window.heard")
            states = await page.evaluate("window.states")

    assert [(run["run_id"], run["output"]["outputs"]) for run in ended] == [(run_id, {"n": 1}) for run_id in everything]
    assert sorted(map(tuple, heard)) == sorted(
        (run_id, status) for run_id in everything for status in ("running", "success")
    )
    assert states.count("lost") >= rounds
    assert set(states) == {"live", "lost"}


async def test_behind_a_proxy_that_refuses_websockets_it_goes_on_by_streams(redis_url: str, chromium: Any) -> None:
    run_id = str(uuid4())
    async with live(redis_url) as running, AsyncPublisher(redis_url, "forecasts") as publisher:
        await publisher.publish(run_id=run_id, status="running")
        async with Proxy(running.url, websockets=False, streams=True) as proxy:
            page = await chromium.new_page()
            page.set_default_timeout(60_000)
            await page.goto(proxy.url + "/static/runstore.js")
            waiting = asyncio.ensure_future(page.evaluate(WAIT, [running.token, run_id]))
            await happens(lambda: bool(proxy.streaming), within_s=60)

            await publisher.publish(run_id=run_id, status="success")

            assert await waiting == ["success", True]
