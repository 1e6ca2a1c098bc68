"""An address that leads to one server, then to another, as a name or a virtual address does after a failover."""

import asyncio

from tests.relay import Ends, Relay


class Switch(Relay):
    """Forwards connections to a port; those that are open end when it is turned."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._to = port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def turn_to(self, port: int) -> None:
        self._to = port
        self.abort_all()

    async def connect(self) -> Ends:
        return await asyncio.open_connection("127.0.0.1", self._to)
