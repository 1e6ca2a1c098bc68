"""Sentinels: who is the primary now, by the first of them that answers."""

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from runstore.adapters.connection import StoreClient
from runstore.core.errors import StoreUnavailable

KNOWN_S: Final = 1.0
"""How long an answer is taken to hold for connections that are open; one that is made asks anew."""

SILENT_S: Final = 10.0
"""For how long nobody is asked about connections that are open, once no Sentinel has answered."""


class Sentinels:
    """The Sentinels of one service. `make` makes a client for one of them."""

    def __init__(
        self, nodes: tuple[tuple[str, int], ...], service: str, make: Callable[[str, int], StoreClient]
    ) -> None:
        self._clients = [make(host, port) for host, port in nodes]
        self._service = service
        self._known: tuple[str, int] | None = None
        self._ask_at_s = 0.0

    async def primary(self) -> tuple[str, int]:
        """Ask who is the primary. Raises: redis.ConnectionError where no Sentinel says."""
        reason = "it knows no such service"
        for client in tuple(self._clients):
            try:
                told: Any = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except StoreUnavailable as error:
                reason = error.detail
                continue
            if told:
                # the next question goes to the one that answered
                self._clients.remove(client)
                self._clients.insert(0, client)
                address = told[0].decode(), int(told[1])
                self._known, self._ask_at_s = address, monotonic() + KNOWN_S
                return address
        self._ask_at_s = monotonic() + SILENT_S
        raise RedisConnectionError(f"no Sentinel names a primary of {self._service!r}: {reason}")

    async def is_primary(self, host: str, port: int) -> bool:
        """Whether a server is the primary still, as far as anybody says."""
        if monotonic() >= self._ask_at_s:
            try:
                await self.primary()
            except RedisConnectionError:
                return True
        return self._known is None or self._known == (host, port)

    async def aclose(self) -> None:
        """Close the connections to them."""
        for client in self._clients:
            await client.shut()


class ToPrimary:
    """Mixed into a connection: each time it is made it leads to the primary of that moment."""

    sentinels: Sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self.sentinels.primary()
        await super()._connect()  # type: ignore[misc]
