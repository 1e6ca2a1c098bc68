"""The gateway: what looks runs up, takes what is published, and pushes what becomes of it, over HTTP."""

import asyncio
import logging
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from runstore.feed import FeedTail, SafeRuns
from runstore.gateway.audience import Audiences
from runstore.gateway.body import Reserve, let_wait
from runstore.gateway.browsers import guard_browsers
from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import SERVICES, Services, Store
from runstore.gateway.cors import let_read
from runstore.gateway.counts import Row
from runstore.gateway.credentials import Credentials
from runstore.gateway.door import Outermost, door, guard
from runstore.gateway.holds import Holds
from runstore.gateway.jwt_config import JwtConfig, JwtTiming
from runstore.gateway.mcp import install_mcp
from runstore.gateway.numbers import numbers_of
from runstore.gateway.openapi import DOCUMENT, describe, router_path
from runstore.gateway.protocol import GuardedServer
from runstore.gateway.rates import Rates, tell_rate
from runstore.gateway.readiness import Readiness
from runstore.gateway.repeat import Repeats
from runstore.gateway.route import Route
from runstore.gateway.routes import ROUTES
from runstore.gateway.runs import get_run
from runstore.gateway.served import ServedProjects
from runstore.gateway.shortcut import shortcut
from runstore.gateway.socket_streams import STREAMS, install_streams
from runstore.gateway.store_health import install_store_health
from runstore.lookup import Lookup
from runstore.metrics import Numbers
from runstore.request_id import HEADER, current
from runstore.resolve import Resolver

_RUN_ROUTE: Final = next(route for route in ROUTES if route.handler is get_run)
_LOOK_EVERY_S: Final = 0.02
_access_log = logging.getLogger("runstore.gateway.access")
_log = logging.getLogger("runstore.gateway")


class Gateway:
    """One gateway over an opened store. `start` returns once it answers, `stop` once nothing of it is left.

    `jwt` is the issuer whose JWTs are taken beside the store's own tokens, and `numbers` what `/metrics` tells besides
    what is this gateway's own.

    Raises: InvalidRequest where JWTs cannot be taken as `jwt` says.
    """

    def __init__(
        self,
        store: Store,
        config: GatewayConfig | None = None,
        *,
        jwt: JwtConfig | None = None,
        jwt_timing: JwtTiming | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        self._store = store
        self._numbers = numbers or Numbers()
        self._config = config or GatewayConfig()
        self._credentials = Credentials(store, self._config, jwt, jwt_timing)
        self._runner: GuardedRunner | None = None
        self._tail: FeedTail | None = None
        self._services: Services | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._address = (self._config.host, self._config.port)

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        host, port = self._address
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - shown, not bound
        return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

    @property
    def ws_url(self) -> str:
        """Where the websocket is."""
        return "ws" + self.url.removeprefix("http") + "/v1/ws"

    @property
    def services(self) -> Services:
        """What the handlers share.

        Needs: a started gateway.
        """
        assert self._services is not None
        return self._services

    async def start(self) -> None:
        """Begin to answer.

        Raises: StoreUnavailable; OSError where the address is taken.
        """
        if self._services is not None:
            return
        config, store = self._config, self._store
        await self._credentials.load()
        tail = FeedTail(store.feed, store.outputs.view)
        await tail.start()
        self._tail = tail
        try:
            services = make_services(store, config, tail, self._credentials, self._numbers)
            await services.readiness.turn()
            self._watches = [
                *(asyncio.create_task(watch, name="gateway-tokens") for watch in self._credentials.watches()),
                asyncio.create_task(services.readiness.watch(config.ready_every_s), name="gateway-readiness"),
                asyncio.create_task(tail.wait(), name="gateway-tail"),
            ]
            self._runner = GuardedRunner(make_app(services), config)
            await self._runner.setup()
            site = web.TCPSite(
                self._runner, config.host, config.port, backlog=config.backlog, reuse_port=config.reuse_port or None
            )
            await site.start()
            self._address = (config.host, self._runner.addresses[0][1])
            self._services = services
            self._numbers.add(numbers_of(services))
        except BaseException:
            await self._end()
            raise
        _log.info("gateway_started", extra={"url": self.url})

    async def stop(self) -> None:
        """Stop: no new request is taken, open sockets are told, what was begun gets its time; may be called twice."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="gateway-stop")
        await asyncio.shield(self._stopping)

    async def wait(self) -> None:
        """Return after `stop`; raise what the gateway died of."""
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            done, _ = await asyncio.wait({stopped, *self._watches}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for task in done:
            if task is not stopped and not task.cancelled() and self._stopping is None:
                task.result()
                raise RuntimeError(f"{task.get_name()} ended by itself")
        await self._stopped.wait()

    async def _stop(self) -> None:
        if self._services is not None and self._runner is not None:
            for site in self._runner.sites:
                await site.stop()
            self._services.stopping.set()
            await self._let_streams_end(self._runner.app)
            await self._services.settle(self._config.shutdown_s)
        await self._end()
        self._stopped.set()

    async def _let_streams_end(self, app: web.Application) -> None:
        # aiohttp drops what comes in once it shuts down, and with it the answers to our close frames
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.shutdown_s):
                while len(app[STREAMS]):  # noqa: ASYNC110 - seldom, and never for long
                    await asyncio.sleep(_LOOK_EVERY_S)

    async def _end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        for watch in self._watches:
            watch.cancel()
        for watch in self._watches:
            with suppress(asyncio.CancelledError, Exception):
                await watch
        if self._tail is not None:
            await self._tail.stop()
        await self._credentials.aclose()


class GuardedRunner(web.AppRunner):
    """aiohttp's runner with our own connections and, around every handler, our own errors."""

    def __init__(self, app: web.Application, config: GatewayConfig) -> None:
        super().__init__(app, shutdown_timeout=config.shutdown_s)
        self._config = config

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler: Outermost = made.request_handler
        counts = self.app[SERVICES].counts
        short = shortcut(handler, self.app[SERVICES], _RUN_ROUTE, _tell_with_all)
        return GuardedServer(
            guard(short, counts),
            self._config,
            request_factory=made.request_factory,
            access_log=_access_log,
            repeats=Repeats(self.app[SERVICES], _RUN_ROUTE),
            counts=counts,
        )


def make_services(
    store: Store, config: GatewayConfig, tail: FeedTail, credentials: Credentials, numbers: Numbers | None = None
) -> Services:
    """Make what the handlers share."""
    runs = SafeRuns(store.runs, tail)
    lookup = Lookup(runs, store.outputs, cache_bytes=config.cache_bytes, tail=tail)
    tail.on_rollback(lambda _: lookup.forget_all())
    tail.on_rollback(lambda _: runs.forget_archived())
    return Services(
        store=store,
        runs=runs,
        config=config,
        tail=tail,
        lookup=lookup,
        resolver=Resolver(runs, lookup),
        auth=credentials.auth,
        run_tokens=credentials.run_tokens,
        readiness=Readiness(store, tail, lag_s=config.ready_lag_s, timeout_s=config.store_timeout_s),
        served=ServedProjects(store.served),
        reserve=Reserve(config.max_bodies_bytes),
        rates=Rates(config),
        holds=Holds(
            config.connections_per_token,
            "websockets, streams and waiting answers",
            "close one, or ask without a wait",
        ),
        audiences=Audiences(tail),
        subscribed=Holds(
            config.runs_per_token, "subscribed runs", "unsubscribe some, or subscribe to their project instead"
        ),
        numbers=numbers or Numbers(),
    )


def make_app(services: Services) -> web.Application:
    """Make the application: its router and its OpenAPI document, both from the table of routes."""
    routes: dict[web.AbstractRoute, Route] = {}
    rows: dict[web.AbstractRoute, Row] = {}
    app = web.Application(middlewares=[door(routes, rows)], client_max_size=services.config.max_event_body_bytes)
    app[SERVICES] = services
    app.on_response_prepare.append(_finish)
    install_streams(app)
    install_mcp(app)
    install_store_health(app)
    app[DOCUMENT] = describe(ROUTES, _version())
    resources: dict[str, web.Resource] = {}
    for route in ROUTES:
        resource = resources.get(route.path)
        if resource is None:
            resource = resources[route.path] = app.router.add_resource(router_path(route))
        methods = ("GET", "HEAD") if route.method == "GET" and not route.is_websocket else (route.method,)
        for method in methods:
            added = resource.add_route(method, route.handler, expect_handler=let_wait)
            routes[added], rows[added] = route, services.counts.row(route)
    return app


async def _finish(request: web.Request, response: web.StreamResponse) -> None:
    request_id = current()
    if request_id is not None:
        response.headers[HEADER] = request_id
    _tell_with_all(request, response.headers)


def _tell_with_all(request: web.Request, headers: CIMultiDict[str]) -> None:
    """Add to an answer, before it is sent, what is told with all of them."""
    let_read(request, headers)
    tell_rate(request, headers)
    guard_browsers(headers)


def _version() -> str:
    try:
        return version("runstore")
    except PackageNotFoundError:
        return "0"
