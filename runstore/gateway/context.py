"""What every handler works with: the services of a gateway, and who is asking."""

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from aiohttp import web

from runstore.core.principal import Principal
from runstore.gateway.config import GatewayConfig
from runstore.ports import Feed, Log, Outputs, RunLogs, Runs, Served, Tokens

if TYPE_CHECKING:
    from runstore.feed import FeedTail
    from runstore.gateway.auth import Authentication
    from runstore.gateway.readiness import Readiness
    from runstore.lookup import Lookup
    from runstore.resolve import Resolver


class Store(Protocol):
    """An opened store, as `RedisStore.open` gives it."""

    @property
    def runs(self) -> Runs:
        """Runs as they were projected."""
        ...

    @property
    def outputs(self) -> Outputs:
        """Outputs beside the log."""
        ...

    @property
    def log(self) -> Log:
        """The event streams."""
        ...

    @property
    def feed(self) -> Feed:
        """The feeds."""
        ...

    @property
    def tokens(self) -> Tokens:
        """API tokens."""
        ...

    @property
    def served(self) -> Served:
        """Projects that workers serve."""
        ...

    @property
    def logs(self) -> RunLogs:
        """stdout and stderr of runs."""
        ...

    async def ping(self) -> object:
        """Ask whether the store answers.

        Raises: StoreUnavailable.
        """
        ...


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request: the principal, and the digest of the credential that proved it."""

    principal: Principal
    digest: bytes


class Services:
    """What the handlers of one gateway share. `stopping` is set before sockets and streams are to end."""

    def __init__(
        self,
        *,
        store: Store,
        config: GatewayConfig,
        tail: "FeedTail",
        lookup: "Lookup",
        resolver: "Resolver",
        auth: "Authentication",
        readiness: "Readiness",
    ) -> None:
        self.store = store
        self.config = config
        self.tail = tail
        self.lookup = lookup
        self.resolver = resolver
        self.auth = auth
        self.readiness = readiness
        self.stopping = asyncio.Event()
        self.commits: set[asyncio.Task[object]] = set()


SERVICES: Final = web.AppKey("services", Services)
CALLER: Final = web.RequestKey("caller", Caller)


def services_of(request: web.Request) -> Services:
    """Return the services of the gateway that a request came to."""
    return request.app[SERVICES]


def principal_of(request: web.Request) -> Principal:
    """Return who is asking.

    Needs: a route that asks for a token.
    """
    return request[CALLER].principal
