"""The SDK against a real store: what the contract shows, and what goes wrong."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import ClientConnectionError, ClientResponse, ClientSession, WSMsgType, web
from msgspec.structs import replace

from runstore import (
    AmbiguousRunId,
    AsyncClient,
    AsyncPublisher,
    Client,
    Forbidden,
    OutputNotFound,
    Publisher,
    RunNotFound,
    Unauthorized,
    UnknownProject,
)
from tests.sdk.conftest import QUICK
from tests.sdk.live import Live
from tests.waiting import happens

GOLDEN = (Path(__file__).parents[1] / "vectors" / "get_run.json").read_bytes().strip()


@pytest.fixture
async def client(running: Live) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(running.url, token=running.token, config=QUICK) as opened:
        yield opened


async def test_the_golden_run_comes_back_byte_for_byte(client: AsyncClient, publisher: AsyncPublisher) -> None:
    run_id = "66666666-6666-6666-6666-666666666666"
    sha = "abc1234def5678901234567890abcdef12345678"
    await publisher.publish(run_id=run_id, status="running", at="2026-04-28T10:00:00+00:00", commit_sha=sha)
    event = await publisher.publish(
        run_id=run_id,
        status="success",
        at="2026-04-28T10:00:01.420000+00:00",
        output={"exit_code": 0, "stdout": "Run completed in 1.42s\n", "outputs": {"revenue": [100, 110, 121]}},
    )

    assert (await client.get_run("6666", after=event.cursor)).to_json() == GOLDEN
    assert (await client.wait(run_id, timeout_s=40)).to_json() == GOLDEN
    assert [run.to_json() async for run in client.watch("6666")] == [GOLDEN]


async def test_what_the_contract_shows(running: Live) -> None:
    sha, token = "abc1234def5678901234567890abcdef12345678", running.token
    async with AsyncClient(running.url, token=token, config=QUICK) as client:
        run = await client.run("forecasts", inputs={"horizon": 3})
        assert run.status == "pending"
        assert run.run_number == 1
        async with AsyncPublisher(running.redis_url) as publisher:
            waiting = asyncio.create_task(client.wait(run.run_id, timeout_s=60))
            async with publisher.track("forecasts", run_id=run.run_id, commit_sha=sha) as tracked:
                tracked.outputs["revenue"] = [100, 110, 121]
            run = await waiting
            assert run.status == "success"
            assert run.output is not None
            assert run.output.outputs == {"revenue": [100, 110, 121]}
            assert await client.get_run(run.run_id[:8]) == run

            run_id = str(uuid4())
            watching = asyncio.create_task(_statuses(client, run_id))
            await publisher.publish(run_id=run_id, status="running", project_name="forecasts")
            event = await publisher.publish(run_id=run_id, status="timed_out", error_message="no answer in 60 s")
            assert (await client.get_run(run_id, after=event.cursor)).error_message == "no answer in 60 s"
            assert (await watching)[-1] == "timed_out"

        listed = [one async for one in client.list_runs(project_name="forecasts", status=["timed_out"])]
        assert [one.run_id for one in listed] == [run_id]


async def _statuses(client: AsyncClient, run_id: str) -> list[str]:
    return [run.status.value async for run in client.watch(run_id, events="all")]


async def test_asking_twice_with_one_key_makes_one_run(client: AsyncClient) -> None:
    first = await client.run("forecasts", inputs={"n": 1}, idempotency_key="monday")
    again = await client.run("forecasts", inputs={"n": 1}, idempotency_key="monday")
    other = await client.run("forecasts", inputs={"n": 1})

    assert first.run_id == again.run_id
    assert other.run_id != first.run_id
    assert len([run async for run in client.list_runs()]) == 2


async def test_a_listing_walks_over_all_pages(client: AsyncClient, publisher: AsyncPublisher) -> None:
    ids = [str(uuid4()) for _ in range(230)]
    events = [await publisher.publish(run_id=run_id, status="running", tags=["a"]) for run_id in ids]
    await asyncio.gather(*(client.get_run(event.run_id, after=event.cursor) for event in events))

    page = await client.list_page(limit=10, tag="a")
    assert len(page.runs) == 10
    assert sorted([run.run_id async for run in client.list_runs(status="running")]) == sorted(ids)
    assert [run async for run in client.list_runs(tag="b")] == []


async def test_a_big_output_is_cut_in_the_run_and_whole_beside_it(
    client: AsyncClient, publisher: AsyncPublisher
) -> None:
    run_id, stdout = str(uuid4()), "line\n" * 400_000
    await publisher.publish(run_id=run_id, status="success", output={"stdout": stdout, "outputs": {"a": 1, "b/c": [2]}})

    run = await client.wait(run_id, timeout_s=40)
    assert run.truncated
    assert len(run.to_json()) < 1_100_000
    assert (await client.output(run_id)).stdout == stdout
    assert await client.output(run_id, "b/c") == [2]
    with pytest.raises(OutputNotFound):
        await client.output(run_id, "nothing")


async def test_errors_are_those_of_the_tree(running: Live, client: AsyncClient, publisher: AsyncPublisher) -> None:
    ids = ["aaaa" + str(uuid4())[4:] for _ in range(2)]
    for run_id in ids:
        event = await publisher.publish(run_id=run_id, status="running")
        await client.get_run(run_id, after=event.cursor)

    with pytest.raises(AmbiguousRunId) as raised:
        await client.get_run("aaaa")
    assert sorted(raised.value.candidates) == sorted(ids)
    with pytest.raises(RunNotFound):
        await client.get_run("bbbb")
    with pytest.raises(RunNotFound):
        await anext(client.watch("bbbb"))
    with pytest.raises(UnknownProject):
        await client.run("nobody-serves-this")
    async with AsyncClient(running.url, token="rst_wrong", config=QUICK) as stranger:
        with pytest.raises(Unauthorized):
            await stranger.get_run("aaaa")
        with pytest.raises(Unauthorized):
            await stranger.wait(ids[0], timeout_s=40)


async def test_a_run_is_cancelled_and_its_events_are_kept(client: AsyncClient) -> None:
    run = await client.run("forecasts")

    cancelled = await client.cancel(run.run_id)

    assert cancelled.status == "cancelled"
    assert await client.cancel(run.run_id) == cancelled
    assert [event.status.value for event in await client.events(run.run_id)] == ["pending", "cancelled"]


async def test_logs_are_told_stream_by_stream(running: Live, client: AsyncClient, publisher: AsyncPublisher) -> None:
    run_id = str(uuid4())
    event = await publisher.publish(run_id=run_id, status="running")
    await client.get_run(run_id, after=event.cursor)
    await running.store.logs.append_logs(event.run_id, [("stdout", "grüße\n".encode()), ("stderr", b"careful\n")])
    told: list[tuple[str, str]] = []
    followed = client.logs(run_id, follow=True)
    told += [await anext(followed), await anext(followed)]
    await running.store.logs.append_logs(event.run_id, [("stdout", b"done\n")])
    await publisher.publish(run_id=run_id, status="failed", error_message="no")

    told += [piece async for piece in followed]
    assert told == [("stdout", "grüße\n"), ("stderr", "careful\n"), ("stdout", "done\n")]
    assert [piece async for piece in client.logs(run_id)] == told


async def test_two_thousand_waits_are_heard_over_one_connection(
    running: Live, client: AsyncClient, publisher: AsyncPublisher
) -> None:
    ids = [str(uuid4()) for _ in range(2000)]
    waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids]

    await asyncio.gather(*(publisher.publish(run_id=run_id, status="success") for run_id in ids))

    assert [run.run_id for run in await asyncio.gather(*waits)] == ids


async def test_a_gateway_that_is_killed_mid_wait_is_found_again_on_its_port(
    running: Live, client: AsyncClient, publisher: AsyncPublisher
) -> None:
    before, after = str(uuid4()), str(uuid4())
    waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in (before, after)]
    async with client.watch(project_name="forecasts", events="all") as watch:
        await publisher.publish(run_id=before, status="running")
        assert (await anext(watch)).status == "running"

        await running.stop_gateway()
        await publisher.publish(run_id=before, status="success")
        await running.start_gateway()
        await publisher.publish(run_id=after, status="failed", error_message="no")

        assert [run.status.value for run in await asyncio.gather(*waits)] == ["success", "failed"]
        assert {(await anext(watch)).run_id for _ in range(2)} == {before, after}


class Proxy:
    """A reverse proxy that counts, and lets websockets through or not; streams it holds back until they are whole."""

    def __init__(self, target: str, *, websockets: bool, streams: bool = False) -> None:
        self.target = target
        self.websockets = websockets
        self.streams = streams
        self.streaming: set[web.StreamResponse] = set()
        self.requests: list[str] = []
        self.url = ""

    async def __aenter__(self) -> "Proxy":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._session = ClientSession(auto_decompress=False)
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if request.path == "/v1/ws":
            return await self._carry(request) if self.websockets else web.Response(status=400, text="no upgrades here")
        try:
            return await self._forward(request)
        except ClientConnectionError:
            return web.Response(status=502, text="nobody answers behind this proxy")

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name not in {"Host", "Connection"}}
        async with self._session.request(
            request.method, self.target + request.path_qs, headers=headers, data=await request.read() or None
        ) as answer:
            kept = {name: answer.headers[name] for name in self.kept if name in answer.headers}
            if self.streams and answer.content_type == "text/event-stream":
                return await self._pass_on(request, answer)
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    kept = ("Content-Type", "Date", "Runstore-Cursor")

    async def _pass_on(self, request: web.Request, answer: ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streaming.add(response)
        try:
            with suppress(ConnectionError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
        finally:
            self.streaming.discard(response)
        return response

    def cut_streams(self) -> None:
        """Cut every stream without a word."""
        for response in list(self.streaming):
            assert response._req is not None
            assert response._req.transport is not None
            response._req.transport.abort()

    async def _carry(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("runstore.v1",))
        await socket.prepare(request)
        headers = {"Authorization": request.headers["Authorization"]}
        async with self._session.ws_connect(f"{self.target}/v1/ws", protocols=("runstore.v1",), headers=headers) as far:

            async def up() -> None:
                async for message in socket:
                    assert message.type is WSMsgType.TEXT
                    await far.send_str(message.data)

            carrying = asyncio.create_task(up())
            async for message in far:
                await socket.send_str(message.data)
            carrying.cancel()
        return socket


async def test_a_wait_asks_nothing_after_it_subscribed(running: Live, publisher: AsyncPublisher) -> None:
    async with Proxy(running.url, websockets=True) as proxy:
        async with AsyncClient(proxy.url, token=running.token, config=QUICK) as client:
            ids = [str(uuid4()) for _ in range(5)]
            waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids]
            for run_id in ids:
                await publisher.publish(run_id=run_id, status="success")

            assert len(await asyncio.gather(*waits)) == 5
        assert proxy.requests == ["GET /v1/ws"]


async def test_behind_a_proxy_without_websockets_all_is_heard_by_long_poll(
    running: Live, publisher: AsyncPublisher
) -> None:
    async with (
        Proxy(running.url, websockets=False) as proxy,
        AsyncClient(proxy.url, token=running.token, config=replace(QUICK, stream_patience_s=0.5)) as client,
    ):
        ids = [str(uuid4()) for _ in range(3)]
        waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids]
        watch = client.watch(*ids)
        async with client.watch(project_name="forecasts") as project:
            for run_id in ids:
                await publisher.publish(run_id=run_id, status="running")
                await publisher.publish(run_id=run_id, status="success", output={"outputs": {"n": 1}})

            assert [run.run_id for run in await asyncio.gather(*waits)] == ids
            assert {run.run_id async for run in watch} == set(ids)
            heard = [await anext(project) for _ in ids]
            assert {run.run_id for run in heard} == set(ids)
            assert all(run.output is not None and run.output.outputs == {"n": 1} for run in heard)


async def test_behind_such_a_proxy_runs_are_heard_by_streams_where_these_get_through(
    running: Live, publisher: AsyncPublisher
) -> None:
    async with (
        Proxy(running.url, websockets=False, streams=True) as proxy,
        AsyncClient(proxy.url, token=running.token, config=QUICK) as client,
    ):
        ids = [str(uuid4()) for _ in range(3)]
        for run_id in ids:
            await publisher.publish(run_id=run_id, status="pending")
        waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids]
        told: list[tuple[str, float]] = []
        watch = client.watch(
            ids[0], events="all", on_progress=lambda run_id, progress: told.append((run_id, progress.fraction or 0))
        )
        statuses = [(await anext(watch)).status.value]
        await happens(lambda: len(proxy.streaming) == 3)
        proxy.requests.clear()

        await publisher.publish(run_id=ids[0], status="running", progress={"fraction": 0.5})
        statuses.append((await anext(watch)).status.value)
        await happens(lambda: bool(told))
        for run_id in ids:
            await publisher.publish(run_id=run_id, status="success", output={"outputs": {"n": 1}})
        statuses += [run.status.value async for run in watch]

        assert [run.run_id for run in await asyncio.gather(*waits)] == ids
        assert statuses == ["pending", "running", "success"]
        assert told == [(ids[0], 0.5)]
        # once for each thing that a stream told, and never because time had passed
        assert sorted(proxy.requests) == sorted([f"GET /v1/runs/{run_id}" for run_id in [*ids, ids[0]]])


async def test_a_stream_that_is_cut_goes_on_from_the_place_where_it_stood(
    running: Live, publisher: AsyncPublisher
) -> None:
    async with (
        Proxy(running.url, websockets=False, streams=True) as proxy,
        AsyncClient(proxy.url, token=running.token, config=QUICK) as client,
    ):
        run_id = str(uuid4())
        await publisher.publish(run_id=run_id, status="pending")
        watch = client.watch(run_id, events="all")
        runs = [await anext(watch)]
        await happens(lambda: bool(proxy.streaming))

        proxy.target, target = "http://127.0.0.1:1", proxy.target
        proxy.cut_streams()
        await publisher.publish(run_id=run_id, status="running")
        event = await publisher.publish(run_id=run_id, status="success", output={"stdout": "ok"})
        proxy.target = target
        runs += [run async for run in watch]

        assert [run.status.value for run in runs] == ["pending", "running", "success"]
        assert runs[1].finished_at is None
        assert runs[2] == await client.get_run(run_id, after=event.cursor)


async def test_a_crowd_of_waits_behind_such_a_proxy_takes_turns(running: Live, publisher: AsyncPublisher) -> None:
    async with (
        Proxy(running.url, websockets=False, streams=True) as proxy,
        AsyncClient(proxy.url, token=running.token, config=QUICK) as client,
    ):
        ids = [str(uuid4()) for _ in range(80)]
        for run_id in ids:
            await publisher.publish(run_id=run_id, status="running")
        waits = [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids[:40]]
        await happens(lambda: len(proxy.streaming) == 40)
        waits += [asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids[40:]]
        await happens(lambda: not proxy.streaming)
        for run_id in ids:
            await publisher.publish(run_id=run_id, status="success")

        assert [run.run_id for run in await asyncio.gather(*waits)] == ids


async def test_a_stream_that_nobody_wants_any_more_is_let_go(running: Live, publisher: AsyncPublisher) -> None:
    async with (
        Proxy(running.url, websockets=False, streams=True) as proxy,
        AsyncClient(proxy.url, token=running.token, config=QUICK) as client,
    ):
        ids = [str(uuid4()) for _ in range(2)]
        for run_id in ids:
            await publisher.publish(run_id=run_id, status="running")
        gone, kept = (asyncio.create_task(client.wait(run_id, timeout_s=40)) for run_id in ids)
        await happens(lambda: len(proxy.streaming) == 2)

        gone.cancel()
        await happens(lambda: len(proxy.streaming) == 1)

        await publisher.publish(run_id=ids[1], status="success")
        assert (await kept).is_terminal
        await happens(lambda: not proxy.streaming)


async def test_the_blocking_faces_do_the_same(running: Live) -> None:
    def work() -> None:
        with (
            Client(running.url, token=running.token, config=QUICK) as client,
            Publisher(running.redis_url) as publisher,
        ):
            run = client.run("forecasts", inputs={"horizon": 3})
            with client.watch(run.run_id, events="all") as watch:
                with publisher.track("forecasts", run_id=run.run_id) as tracked:
                    tracked.outputs["revenue"] = [100]
                statuses = [one.status.value for one in watch]
            assert statuses[-2:] == ["running", "success"]
            ended = client.wait(run.run_id, timeout_s=40)
            assert client.get_run(run.run_id[:10]) == ended
            assert [one.run_id for one in client.list_runs(project_name="forecasts")] == [run.run_id]
            assert client.output(run.run_id, "revenue") == [100]
            with pytest.raises(RunNotFound):
                client.get_run("0123")

    await asyncio.to_thread(work)


async def test_one_blocking_client_serves_several_threads(running: Live) -> None:
    client, publisher = (
        Client(running.url, token=running.token, config=QUICK),
        Publisher(running.redis_url, "forecasts"),
    )
    ids = [str(uuid4()) for _ in range(20)]
    loop = asyncio.get_running_loop()

    def publish(run_id: str) -> None:
        publisher.publish(run_id, "success")

    with ThreadPoolExecutor(40) as threads:
        waits = [loop.run_in_executor(threads, client.wait, run_id, 40) for run_id in ids]
        publishes = [loop.run_in_executor(threads, publish, run_id) for run_id in ids]
        ended = await asyncio.gather(*waits)
        await asyncio.gather(*publishes)

    assert [run.run_id for run in ended] == ids
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(publisher.close)


async def test_a_run_token_watches_its_run_and_does_nothing_else(
    client: AsyncClient, running: Live, publisher: AsyncPublisher
) -> None:
    run_id, other = str(uuid4()), str(uuid4())
    for one in (run_id, other):
        event = await publisher.publish(run_id=one, status="running")
        await client.get_run(one, after=event.cursor)

    made = await client.run_token(run_id, expires_s=60)

    assert made.run_id == run_id
    assert made.token not in repr(made)
    async with AsyncClient(running.url, token=made.token, config=QUICK) as browser:
        assert (await browser.get_run(run_id[:8])).status == "running"
        waiting = asyncio.create_task(browser.wait(run_id, timeout_s=20))
        await publisher.publish(run_id=run_id, status="success")
        assert (await waiting).status == "success"
        assert [run.status async for run in browser.watch(run_id)] == ["success"]
        assert [event.status for event in await browser.events(run_id)] == ["running", "success"]
        with pytest.raises(RunNotFound):
            await browser.get_run(other)
        for refused in (browser.list_page(), browser.cancel(run_id), browser.run_token(run_id)):
            with pytest.raises(Forbidden):
                await refused


async def test_a_blocking_client_makes_run_tokens_too(running: Live, publisher: AsyncPublisher) -> None:
    run_id = str(uuid4())
    await publisher.publish(run_id=run_id, status="success")

    def make() -> str:
        with Client(running.url, token=running.token, config=QUICK) as client:
            client.wait(run_id, timeout_s=20)
            return client.run_token(run_id).token

    token = await asyncio.to_thread(make)

    assert token.startswith("rrt_")
