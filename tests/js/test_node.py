"""runstore.js in Node against a real gateway that is stopped and started: by websocket, streams and long poll."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from runstore import AsyncPublisher
from runstore.adapters.store import RedisStore
from tests.js.node import script
from tests.sdk.live import Live
from tests.sdk.test_live import Proxy
from tests.waiting import happens

SLOW_WAYS = [pytest.param(way, marks=pytest.mark.slow) for way in ("streams", "long poll")]
WAYS = pytest.mark.parametrize("way", ["websocket", *SLOW_WAYS])


@asynccontextmanager
async def reached(running: Live, way: str) -> AsyncIterator[str]:
    """Give an address under which the gateway is reached in one way only."""
    if way == "websocket":
        yield running.url
        return
    async with Proxy(running.url, websockets=False, streams=way == "streams") as proxy:
        yield proxy.url


def new_ids(number: int) -> list[str]:
    return [str(uuid4()) for _ in range(number)]


async def publish(publisher: AsyncPublisher, run_id: str, *statuses: str) -> str:
    """Publish, and return the cursor behind the last."""
    for status in statuses:
        event = await publisher.publish(run_id=run_id, status=status)
    return str(event.cursor)


@WAYS
async def test_a_wait_hears_of_an_end_that_came_while_the_gateway_was_away(
    running: Live, publisher: AsyncPublisher, way: str
) -> None:
    before, after = new_ids(2)
    text = """
    const waits = told.map((id) => client.wait(id, { timeoutS: 40 }));
    const first = client.watch({ projectName: "forecasts", events: "all" });
    await first.ready();
    say("listening");
    say((await first.next()).value.status);
    say((await Promise.all(waits)).map((run) => run.status));
    client.close();
    """
    async with reached(running, way) as url, script(text, url, running.token, before, after) as node:
        assert await node.hear() == "listening"
        await publish(publisher, before, "running")
        assert await node.hear() == "running"

        await running.stop_gateway()
        await publish(publisher, before, "success")
        await running.start_gateway()
        await publish(publisher, after, "failed")

        assert await node.rest() == [["success", "failed"]]


@WAYS
async def test_a_watch_of_runs_tells_each_transition_once_and_ends_by_itself(
    running: Live, publisher: AsyncPublisher, way: str
) -> None:
    (run_id,) = new_ids(1)
    await publish(publisher, run_id, "pending")
    text = """
    for await (const run of client.watch({ runIds: told[0], events: "all" })) say(run.status);
    say(client.link.state);
    client.close();
    """
    async with reached(running, way) as url, script(text, url, running.token, run_id) as node:
        assert await node.hear() == "pending"
        await running.stop_gateway()
        await publish(publisher, run_id, "running")
        await running.start_gateway()
        assert await node.hear() == "running"
        await publish(publisher, run_id, "success")

        assert (await node.rest())[0] == "success"


@WAYS
async def test_a_watch_of_a_project_misses_nothing_and_tells_no_end_twice(
    running: Live, publisher: AsyncPublisher, way: str
) -> None:
    ids = new_ids(6)
    text = """
    const watch = client.watch({ projectName: "forecasts" });
    await watch.ready();
    say("listening");
    for await (const run of watch) {
      say(run.run_id);
      if (run.run_id === told.at(-1)) client.close();
    }
    """
    text = text.replace("for await", "try { for await") + "} catch (error) { say(error.code); }"
    async with reached(running, way) as url, script(text, url, running.token, *ids) as node:
        assert await node.hear() == "listening"
        await publish(publisher, ids[0], "success")
        heard = [await node.hear()]
        await running.stop_gateway()
        for run_id in ids[1:4]:
            await publish(publisher, run_id, "running", "failed")
        await running.start_gateway()
        heard += [await node.hear() for _ in range(3)]
        for run_id in ids[4:]:
            await publish(publisher, run_id, "success")
            heard.append(await node.hear())

        assert await node.rest() == ["gateway_unreachable"]
    assert sorted(heard) == sorted(ids)


@pytest.mark.slow
async def test_a_project_is_gone_on_with_from_a_cursor_without_a_websocket_too(
    running: Live, publisher: AsyncPublisher
) -> None:
    first, missed = new_ids(2)
    cursor = await publish(publisher, first, "success")
    await publish(publisher, missed, "success")
    text = """
    const watch = client.watch({ projectName: "forecasts", cursor: told[0] });
    for await (const run of watch) if (run.run_id === told[1]) break;
    say("heard");
    client.close();
    """
    async with script(text, running.url, running.token, cursor, missed, websocket=False) as node:
        assert await node.rest() == ["heard"]


@pytest.mark.slow
async def test_waits_by_the_thousand_share_one_connection(running: Live, publisher: AsyncPublisher) -> None:
    ids = new_ids(1500)
    text = """
    const runs = told[0].map((id) => client.wait(id, { timeoutS: 40 }));
    const one = client.watch({ runIds: told[0][0], events: "all" });
    await one.next();
    say("begun");
    say((await Promise.all(runs)).filter(isTerminal).length);
    client.close();
    """
    async with script(text, running.url, running.token, ids) as node:
        await publish(publisher, ids[0], "running")
        assert await node.hear() == "begun"
        await happens(lambda: len(running.gateway.services.holds) == 1)
        await asyncio.gather(*(publish(publisher, run_id, "success") for run_id in ids))

        assert await node.rest() == [1500]


async def test_a_reader_that_is_slow_lets_go_and_hears_everything_all_the_same(
    running: Live, publisher: AsyncPublisher
) -> None:
    ids = new_ids(60)
    text = """
    const watch = client.watch({ projectName: "forecasts" });
    await watch.ready();
    say("listening");
    await new Promise((go) => process.stdin.once("data", go)).then(() => process.stdin.destroy());
    const heard = [];
    while (heard.length < told[0].length) heard.push((await watch.next()).value.run_id);
    say(heard);
    client.close();
    """
    config = "{ bufferItems: 5 }"
    async with script(text, running.url, running.token, ids, config=config) as node:
        assert await node.hear() == "listening"
        for run_id in ids:
            await publish(publisher, run_id, "success")
        assert node.process.stdin is not None
        node.process.stdin.write(b"go on\n")

        (heard,) = await node.rest()
    assert sorted(heard) == sorted(ids)


async def test_a_token_that_is_revoked_ends_waits_with_an_error(running: Live, publisher: AsyncPublisher) -> None:
    (run_id,) = new_ids(1)
    text = """
    const watch = client.watch({ runIds: told[0], events: "all" });
    say((await watch.next()).value.status);
    try { await watch.next(); } catch (error) { say([error.code, error.status, error.retryable]); }
    client.close();
    """
    await publish(publisher, run_id, "running")
    async with script(text, running.url, running.token, run_id) as node:
        assert await node.hear() == "running"
        async with RedisStore.open(running.redis_url) as store:
            await store.tokens.revoke("test")

        assert await node.rest() == [["unauthorized", 401, False]]


async def test_errors_carry_the_codes_of_the_gateway(running: Live, publisher: AsyncPublisher) -> None:
    for tail in ("1", "2"):
        last = await publish(publisher, f"abcdabcd-0000-4000-8000-00000000000{tail}", "running")
    text = """
    const tried = [
      () => client.getRun("abcdabcd", { after: told[0] }),
      () => client.getRun("12345678"),
      () => client.getRun("no"),
      () => client.wait("12345678"),
      () => client.watch({ runIds: "12345678" }).next(),
      () => client.wait("12345678-0000-4000-8000-000000000001", { timeoutS: 0.05 }),
      () => client.listPage({ status: "finished" }),
      () => client.run("nobodys"),
      () => new Client(url, { token: "wrong" }).getRun("abcdabcd"),
      () => new Client(url, { token: "wrong" }).wait("12345678-0000-4000-8000-000000000001"),
      () => new Client("http://127.0.0.1:1", { retryForS: 0 }).getRun("abcdabcd"),
    ];
    for (const one of tried) {
      try { say(await one()); } catch (error) { say([error.code, error.candidates?.length]); }
    }
    client.close();
    """
    async with script(text, running.url, running.token, last) as node:
        assert await node.rest() == [
            ["ambiguous_run_id", 2],
            ["run_not_found", 0],
            ["invalid_run_id", 0],
            ["run_not_found", 0],
            ["run_not_found", 0],
            ["wait_timeout", 0],
            ["invalid_request", 0],
            ["unknown_project", 0],
            ["unauthorized", 0],
            ["unauthorized", 0],
            ["gateway_unreachable", 0],
        ]


async def test_the_rest_of_the_client_does_what_the_python_one_does(running: Live, publisher: AsyncPublisher) -> None:
    run_id = new_ids(1)[0]
    await publisher.publish(run_id=run_id, status="running", tags=["a"])
    event = await publisher.publish(
        run_id=run_id, status="success", output={"stdout": "héllo\n", "stderr": "oh", "outputs": {"a/b": [1, 2]}}
    )
    text = """
    const run = await client.getRun(told[0].slice(0, 13), { after: told[1] });
    say([run.status, run.output.outputs]);
    say(await client.output(run.run_id, "a/b"));
    say((await client.events(run.run_id)).map((event) => event.status));
    let text = "";
    for await (const piece of client.logs(run.run_id)) text += `${piece.stream}:${piece.text}`;
    say(text);
    for await (const one of client.listRuns({ tag: ["a"], status: ["success", "failed"] })) say(one.run_id);
    say((await client.cancel(run.run_id)).status);
    const made = await client.runToken(run.run_id, { expiresS: 60 });
    const bound = new Client(url, { token: made.token });
    say((await bound.wait(run.run_id)).status);
    bound.close();
    const asked = await client.run("forecasts", { inputs: { n: 1 }, idempotencyKey: "k" });
    say((await client.run("forecasts", { inputs: { n: 1 }, idempotencyKey: "k" })).run_id === asked.run_id);
    say((await client.cancel(asked.run_id)).project_name);
    client.close();
    """
    async with script(text, running.url, running.token, run_id, event.cursor) as node:
        assert await node.rest() == [
            ["success", {"a/b": [1, 2]}],
            [1, 2],
            ["running", "success"],
            "stdout:héllo\nstderr:oh",
            run_id,
            "success",
            "success",
            True,
            "forecasts",
        ]


async def test_the_token_shows_in_no_address(running: Live, publisher: AsyncPublisher) -> None:
    (run_id,) = new_ids(1)
    await publish(publisher, run_id, "success")
    text = """
    const opened = [];
    const token = "a-token-of-20-letters";
    const sock = class { constructor(...given) { opened.push(given); throw new Error("not now"); } };
    const asked = [];
    globalThis.fetch = async (address, options) => {
      asked.push(String(address), Object.keys(options.headers));
      return Response.json({});
    };
    const other = new Client("http://runs.example/below/", { token, WebSocket: sock });
    other.wait(told[0]).catch(() => {});
    await other.getRun(told[0]);
    say([opened, asked]);
    process.exit(0);
    """
    text = text.replace("const token =", "const secret =").replace("{ token, W", "{ token: secret, W")
    async with script(text, running.url, running.token, run_id) as node:
        ((opened, asked),) = await node.rest()

    assert opened == [["ws://runs.example/below/v1/ws", ["runstore.v1", "runstore.bearer.a-token-of-20-letters"]]]
    assert asked == [f"http://runs.example/below/v1/runs/{run_id}", ["Authorization"]]


@pytest.mark.slow
async def test_ten_thousand_waits_ended_and_given_up_leave_nothing_behind(
    running: Live, publisher: AsyncPublisher
) -> None:
    ended, pending = new_ids(2)
    await publish(publisher, ended, "success")
    await publish(publisher, pending, "running")
    text = """
    import v8 from "node:v8";
    import vm from "node:vm";
    v8.setFlagsFromString("--expose-gc");
    const gc = vm.runInNewContext("gc");
    process.on("unhandledRejection", () => say("unhandled"));
    const signal = new AbortController().signal; // one that outlives every wait, as a server's own does
    const held = client.wait(told[1], { signal });
    const round = async () => {
      for (let n = 0; n < 10; n += 1) {
        await Promise.all(Array.from({ length: 50 }, () => client.wait(told[0], { signal })));
        const stop = new AbortController();
        const given = Array.from({ length: 50 }, () => client.wait(told[1], { signal: stop.signal }));
        stop.abort();
        const left = await Promise.allSettled(given);
        if (left.some((one) => one.reason?.name !== "AbortError")) say(left[0]);
      }
      gc();
      return process.memoryUsage().heapUsed;
    };
    await round();
    const before = await round();
    for (let n = 0; n < 10; n += 1) await round();
    const after = await round();
    say(after - before < 1_000_000 ? "steady" : after - before);
    client.close();
    say(await held.catch((error) => error.code));
    """
    async with script(text, running.url, running.token, ended, pending) as node:
        assert await node.rest() == ["steady", "gateway_unreachable"]
