"""What every handler works with: the services of a gateway, and who is asking."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from runstore.core.cursor import Cursor
from runstore.core.ids import RunId
from runstore.core.principal import Principal
from runstore.gateway.config import GatewayConfig
from runstore.gateway.counts import GatewayCounts
from runstore.ports import Feed, Log, Outputs, RunLogs, Runs, Served, SigningKeys, Tokens

if TYPE_CHECKING:
    from runstore.feed import FeedTail
    from runstore.gateway.audience import Audiences
    from runstore.gateway.auth import Authentication
    from runstore.gateway.body import Reserve
    from runstore.gateway.holds import Holds
    from runstore.gateway.rates import Rates
    from runstore.gateway.readiness import Readiness
    from runstore.gateway.run_tokens import RunTokens
    from runstore.gateway.served import ServedProjects
    from runstore.lookup import Lookup
    from runstore.metrics import Numbers
    from runstore.resolve import Resolver


T = TypeVar("T")


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
    def signing_keys(self) -> SigningKeys:
        """The keys that run tokens are signed with."""
        ...

    @property
    def served(self) -> Served:
        """Projects that workers serve."""
        ...

    @property
    def logs(self) -> RunLogs:
        """The output streams of runs."""
        ...

    async def ping(self) -> object:
        """Ask whether the store answers.

        Raises: StoreUnavailable.
        """
        ...

    async def dead_letters(self) -> int:
        """Count the dead letters of all partitions.

        Raises: StoreUnavailable.
        """
        ...


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request: the principal, and the digest of the credential that proved it.

    `vouchers` are what all must still stand for the credential to hold: see `gateway.auth`.
    """

    principal: Principal
    digest: bytes
    vouchers: tuple[bytes, ...]


class Services:
    """What the handlers of one gateway share. `stopping` is set before sockets and streams are to end."""

    def __init__(
        self,
        *,
        store: Store,
        runs: Runs,
        config: GatewayConfig,
        tail: "FeedTail",
        lookup: "Lookup",
        resolver: "Resolver",
        auth: "Authentication",
        run_tokens: "RunTokens",
        readiness: "Readiness",
        served: "ServedProjects",
        reserve: "Reserve",
        rates: "Rates",
        holds: "Holds",
        subscribed: "Holds",
        numbers: "Numbers",
        audiences: "Audiences",
    ) -> None:
        self.store = store
        self.runs = runs
        self.config = config
        self.tail = tail
        self.lookup = lookup
        self.resolver = resolver
        self.auth = auth
        self.run_tokens = run_tokens
        self.readiness = readiness
        self.served = served
        self.reserve = reserve
        self.rates = rates
        self.holds = holds
        self.subscribed = subscribed
        self.numbers = numbers
        self.counts = GatewayCounts()
        self.audiences = audiences
        self.stopping = asyncio.Event()
        self.big_outputs = asyncio.Semaphore(config.big_outputs_at_once)
        self._commits: set[asyncio.Task[Any]] = set()

    async def commit(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must not stop midway when its caller hangs up."""
        task = asyncio.create_task(work)
        self._commits.add(task)
        task.add_done_callback(self._committed)
        return await asyncio.shield(task)

    async def settle(self, timeout_s: float) -> None:
        """Let what was begun by `commit` end."""
        if self._commits:
            await asyncio.wait(self._commits, timeout=timeout_s)

    def cursor_text(self, run_id: RunId, seen: Cursor) -> str:
        """Write the cursor of one run, out of the places as they were seen before the run was read."""
        return self.tail.text_of(seen[self.tail.partition_of(run_id)])

    def _committed(self, task: asyncio.Task[Any]) -> None:
        self._commits.discard(task)
        if not task.cancelled():
            task.exception()


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
