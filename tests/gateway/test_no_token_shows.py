"""No token in any log line or address: whatever is asked, with whatever token, wherever it was put."""

import asyncio
import base64
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from runstore import AsyncClient
from runstore.cli.journal import Lines
from runstore.client.config import ClientConfig
from runstore.client.errors import GatewayUnreachable
from runstore.core.errors import InvalidRequest, RunstoreError
from runstore.core.principal import Scope
from runstore.core.token import make_token
from runstore.gateway.access_log import masked_path
from runstore.projector import Projector
from tests.cli.processes import PATIENT, run
from tests.gateway.builders import RUN_ID, Site, StandIn, add_token, site_over
from tests.gateway.issuer import issuing
from tests.gateway.limits import wire

FIXED = "a-token-that-somebody-chose"
"""Of no form to be known by."""

HEX = "00112233445566778899aabbccddeeff"
"""As `openssl rand -hex 16` makes it; as long as a run id without its dashes."""


class Heard(logging.Handler):
    """Keeps all that is logged, as the command line writes it and as it was given."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.given: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(Lines().format(record))
        self.given.append(f"{record.getMessage()} {vars(record)}")


@pytest.fixture
def heard() -> Iterator[Heard]:
    """All that is logged, at any level, by us and by what we stand on."""
    heard, root = Heard(), logging.getLogger()
    names = ("runstore", "runstore.gateway.access", "aiohttp", "asyncio", "mcp")
    before = {name: logging.getLogger(name).level for name in ("", *names)}
    root.addHandler(heard)
    for name in ("", *names):
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield heard
    root.removeHandler(heard)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


async def put_everywhere(site: Site, token: str) -> None:
    """Send a token by every way that there is, and by those that there are not."""
    bearer = {"Authorization": f"Bearer {token}"}
    basic = base64.b64encode(f"user:{token}".encode()).decode()
    output = f"/v1/runs/{RUN_ID}/output/"
    paths = ["/{}", "/v1/{}", "/v1/runs/{}", "/v1/runs/{}/events", "/v1/runs/x%20{}", output + "{}"]
    paths += [f"/v1/runs?{name}={{}}" for name in ("token", "access_token", "authorization")]
    calls = [site.get(path.format(token), token=None, headers=given) for path in paths for given in ({}, bearer)]
    for name, value in (("Authorization", f"Basic {basic}"), ("Authorization", token), ("Cookie", f"token={token}")):
        calls.append(site.get("/v1/runs", token=None, headers={name: value}))
    calls += [
        site.get(f"/v1/runs/{RUN_ID}/events", token=token, headers={"Last-Event-ID": token}),
        site.post("/v1/runs", {"project_name": token, token: token}, token=token),
        site.post("/v1/runs", token=token, data=token.encode()),
        site.post(f"/v1/runs/{RUN_ID}/transitions", {"status": token}, token=token),
    ]
    accepts = {"Accept": "application/json, text/event-stream"}
    for method in ("tools/list", "tools/call", token):
        called = {"name": token, "arguments": {"run_id": token}}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": called}
        calls.append(site.post("/mcp", message, token=token, headers=accepts))
    offers = (["runstore.v1", f"runstore.bearer.{token}"], ["other.v1", f"runstore.bearer.{token}"], [token])
    sockets = [open_and_say(site, offered, query, token) for offered in offers for query in ("", f"?token={token}")]
    raw = (b"GET /v1/runs?token=%b HTTP/9.9\r\n\r\n", b"%b\r\n\r\n", b"GET / HTTP/1.1\r\nBad Name: %b\r\n\r\n")
    await asyncio.gather(*calls, *sockets, *(send(site, text % token.encode()) for text in raw))


async def open_and_say(site: Site, offered: list[str], query: str, token: str) -> None:
    try:
        async with site.session.ws_connect(site.gateway.url + "/v1/ws" + query, protocols=offered) as ws:
            await ws.send_str(token)
            await ws.send_bytes(token.encode())
            while not ws.closed:
                await ws.receive()
    except aiohttp.WSServerHandshakeError:
        pass


async def send(site: Site, raw: bytes) -> None:
    async with wire(site) as (reader, writer):
        writer.write(raw)
        await asyncio.wait_for(reader.read(), 30)


@asynccontextmanager
async def door(store: StandIn) -> AsyncIterator[tuple[Site, dict[str, str]]]:
    async with issuing() as issuer, Projector(store.redis), site_over(store, jwt=issuer.config()) as site:
        made = make_token(2**170 + 12345)
        await add_token(store, FIXED, Scope.ADMIN)
        await add_token(store, made, Scope.ADMIN)
        await add_token(store, HEX, Scope.ADMIN)
        await site.publish(RUN_ID)
        run_token = (await site.post(f"/v1/runs/{RUN_ID}/token")).json()["token"]
        yield (
            site,
            {
                "fixed": FIXED,
                "hex": HEX,
                "API token": made,
                "unknown API token": make_token(2**169 + 54321),
                "JWT": issuer.token("runs:read"),
                "expired JWT": issuer.token("runs:read", exp=1_000_000_000),
                "JWT of a changed signature": issuer.token("runs:read")[:-8] + "AAAAAAAA",
                "run token": run_token,
                "run token of a changed signature": run_token[:-8] + "AAAAAAAA",
                "no token of anybody": "nobody-has-this-token-at-all",
            },
        )


KINDS = [
    *("fixed", "hex", "API token", "unknown API token", "JWT", "expired JWT", "JWT of a changed signature"),
    *("run token", "run token of a changed signature", "no token of anybody"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_token_gets_into_a_log_whatever_is_asked(gateway_store: StandIn, heard: Heard, kind: str) -> None:
    async with door(gateway_store) as (site, tokens):
        token = tokens[kind]
        heard.lines.clear()
        heard.given.clear()

        await put_everywhere(site, token)

    assert len([line for line in heard.lines if " request " in line]) > 20, "the access log was not on"
    pieces = [token, token[:20], token[-20:]]
    assert not [line for line in heard.lines + heard.given if any(piece in line for piece in pieces)]


async def test_a_bug_is_logged_without_the_token_in_its_address(
    gateway_store: StandIn, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> None:
        raise RuntimeError("a bug")

    async with door(gateway_store) as (site, tokens):
        monkeypatch.setattr(site.gateway.services.resolver, "load", fails)
        for token in (tokens["fixed"], tokens["JWT"]):
            heard.lines.clear()
            reply = await site.get(f"/v1/runs/{token}", token=token)

            assert reply.status == 500
            assert any("request_failed" in line and "a bug" in line for line in heard.lines)
            assert not any(token in line for line in heard.lines + heard.given)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/runs", "/v1/runs"),
        (f"/v1/runs/{RUN_ID}/output", f"/v1/runs/{RUN_ID}/output"),
        ("/v1/runs/66666666-6666", "/v1/runs/66666666-6666"),
        (f"/v1/runs/{FIXED}/events", "/v1/runs/a-to…/events"),
        (f"/v1/runs/{HEX}", "/v1/runs/0011…"),
        (f"/{RUN_ID}x", "/6666…"),
    ],
)
def test_the_log_shows_a_path_but_for_what_could_be_a_token(path: str, shown: str) -> None:
    assert masked_path(path) == shown
    assert len(masked_path("/a" * 1000)) == 200


def test_what_has_the_form_of_a_token_is_cut_in_any_line_of_a_log() -> None:
    made = make_token(7)
    record = logging.makeLogRecord({"msg": f"said {made}, eyJhbGciOi.eyJzdWIi.c2ln", "levelname": "INFO", "name": "x"})
    record.header = "runstore.v1, runstore.bearer.somebodys-own-token"

    line = Lines().format(record)

    assert line.endswith("said rst_…, eyJ… header=runstore.v1, runstore.bearer.…")


class Relay:
    """Passes bytes on, and keeps those of the client; lets websockets through or not."""

    def __init__(self, target: str, *, websockets: bool) -> None:
        self._target = URL(target)
        self._websockets = websockets
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent = bytearray()

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()

    @property
    def targets(self) -> list[str]:
        """What was asked for, as it was written."""
        return [line.decode() for line in re.findall(rb"(?:GET|POST) (\S+) HTTP/1\.1\r\n", bytes(self.sent))]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream, to_gateway = await asyncio.open_connection(self._target.host, self._target.port)
        back = asyncio.create_task(self._pass(upstream, writer))
        try:
            while piece := await reader.read(65536):
                self.sent += piece
                if b"GET /v1/ws" in piece and not self._websockets:
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    break
                to_gateway.write(piece)
        except ConnectionError:
            pass
        finally:
            back.cancel()
            to_gateway.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "streams"])
async def test_the_client_puts_no_token_into_an_address_or_a_log(
    gateway_store: StandIn, heard: Heard, websockets: bool
) -> None:
    config = ClientConfig(backoff_s=0.05)
    async with door(gateway_store) as (site, tokens), Relay(site.gateway.url, websockets=websockets) as relay:
        heard.lines.clear()
        heard.given.clear()
        for token in (tokens["API token"], tokens["fixed"], tokens["no token of anybody"]):
            async with AsyncClient(relay.url, token=token, config=config) as client:
                await asyncio.gather(*(_tried(call) for call in calls(client, site)))
        async with AsyncClient("http://127.0.0.1:1", token=FIXED, config=ClientConfig(retry_for_s=0)) as nowhere:
            with pytest.raises(GatewayUnreachable) as unreachable:
                await nowhere.get_run(RUN_ID)

    written = heard.lines + heard.given + [str(unreachable.value)]
    assert len(relay.targets) > 10
    assert any(target.startswith("/v1/ws") for target in relay.targets)
    for token in (tokens["API token"], tokens["fixed"], tokens["no token of anybody"]):
        assert f"Bearer {token}".encode() in relay.sent
        assert not [text for text in relay.targets + written if token in text]


def calls(client: AsyncClient, site: Site) -> list[Any]:
    ended = "77777777-7777-4777-8777-777777777777"

    async def listed() -> None:
        async for _ in client.list_runs(project_name="forecasts", status=["success"]):
            pass

    async def watched() -> None:
        async for _ in client.watch(ended, events="all"):
            pass

    async def waited() -> None:
        await site.publish(ended, status="success", output={"outputs": {"revenue": 1}})
        await client.wait(ended, timeout_s=20)

    return [client.get_run(RUN_ID), client.run_token(RUN_ID), client.run("forecasts"), listed(), watched(), waited()]


async def _tried(call: Any) -> None:
    try:
        async with asyncio.timeout(20):
            await call
    except RunstoreError:
        pass


@PATIENT
async def test_the_commands_put_no_token_into_an_address_or_onto_a_screen(
    gateway_store: StandIn, tmp_path: Path
) -> None:
    async with door(gateway_store) as (site, _), Relay(site.gateway.url, websockets=True) as relay:
        given = {"RUNSTORE_URL": relay.url, "RUNSTORE_TOKEN": FIXED}
        done = await asyncio.to_thread(run, "get", RUN_ID, folder=tmp_path, **given)

    assert FIXED.encode() in relay.sent
    assert FIXED not in done.stdout + done.stderr + "".join(relay.targets)


def test_an_address_that_holds_a_password_is_not_taken() -> None:
    with pytest.raises(InvalidRequest, match="RUNSTORE_TOKEN") as refused:
        AsyncClient(f"http://user:{FIXED}@127.0.0.1:1")

    assert FIXED not in str(refused.value)
