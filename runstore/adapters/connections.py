"""The clients of a store, for whatever its URL leads to: one server, Sentinels or a cluster."""

from typing import Any, Self

from runstore.adapters.address import Address, Kind, read_address
from runstore.adapters.cluster import ClusterClient
from runstore.adapters.connection import MAX_BLOCK_MS, Greeting, StoreClient, check_role, connect
from runstore.adapters.sentinel import Sentinels, ToPrimary
from runstore.core.errors import InvalidRequest, StoreUnavailable

_SENTINEL_TIMEOUT_S = 1.0


def open_client(
    url: str, *, max_connections: int, timeout_s: float, block_ms: int = 0, greeting: Greeting | None = None
) -> StoreClient:
    """Make a client for a URL; nothing is sent yet.

    Units: `block_ms` is the longest that a command of this client may block for.

    Raises: InvalidRequest where the URL is none of Redis.
    """
    try:
        address = read_address(url)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"the Redis URL cannot be used: {str(error)[:160]}") from None
    greeting = greeting or Greeting()
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "timeout_s": timeout_s,
        "block_ms": block_ms,
        "greeting": greeting,
    }
    match address.kind:
        case Kind.SERVER:
            return connect(url, **options)
        case Kind.SENTINEL:
            return _by_sentinels(address, options)
        case Kind.CLUSTER:
            nodes = address.nodes
            return ClusterClient(nodes, lambda host, port: connect(address.url_of(host, port), **options), timeout_s)


def _by_sentinels(address: Address, options: dict[str, Any]) -> StoreClient:
    login = dict(address.sentinel)
    name, password = login.get("username", ""), login.get("password", "")
    theirs = Address(
        kind=address.kind,
        scheme=address.scheme,
        login=f"{name}:{password}@" if login else "",
        rest="?" + address.rest.partition("?")[2],
    )
    whoever = Greeting()
    whoever.knows_role = False
    timeout_s = min(_SENTINEL_TIMEOUT_S, options["timeout_s"])

    def ask(host: str, port: int) -> StoreClient:
        return connect(theirs.url_of(host, port), max_connections=4, timeout_s=timeout_s, greeting=whoever)

    sentinels = Sentinels(address.nodes, address.service, ask)
    options["greeting"].is_primary = sentinels.is_primary
    mixin = type("ToPrimary", (ToPrimary,), {"sentinels": sentinels})
    client = connect(address.url_of(*address.nodes[0]), mixin=mixin, **options)
    client.on_shut(sentinels.aclose)
    return client


class Connections:
    """The two clients of a store: one for commands that answer at once, one for reads that wait."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, max_connections: int = 32, max_blocking: int = 256) -> None:
        self._greeting = Greeting()
        self.client = open_client(url, max_connections=max_connections, timeout_s=timeout_s, greeting=self._greeting)
        self.blocking = open_client(
            url, max_connections=max_blocking, timeout_s=timeout_s, block_ms=MAX_BLOCK_MS, greeting=self._greeting
        )
        self.timeout_s = timeout_s

    @property
    def made(self) -> int:
        """How many connections were made so far: after another one, another life of the server may be answering."""
        return self._greeting.made

    async def ping(self) -> None:
        """Check that the primary answers. Raises: StoreUnavailable."""
        knew_role = self._greeting.knows_role
        try:
            await self._ask()
        except StoreUnavailable:
            if self._greeting.knows_role == knew_role:
                raise
            # some stand-ins hang up after a command that they do not know
            await self._ask()

    async def _ask(self) -> None:
        await self.client.execute_command("PING")
        if not self._greeting.knows_role or self.client.is_cluster:
            return
        try:
            check_role(await self.client.execute_command("ROLE"))
        except StoreUnavailable as error:
            if error.__cause__ is None:
                # what is still open leads to a server that was demoted
                await self.client.drop()
                await self.blocking.drop()
            raise

    def doubt(self) -> None:
        """Let no command begin on a connection that is open now: the server behind it may be one of the past."""
        for client in (self.client, self.blocking):
            client.doubt()

    async def aclose(self) -> None:
        """Close every connection; may be called twice."""
        for client in (self.client, self.blocking):
            await client.shut()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
