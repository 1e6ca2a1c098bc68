"""What stays open: websockets and SSE streams, checked again every second and ended when the gateway stops.

They are not all ended at once then: whoever is ended comes back, at another gateway, which is to be spared the crowd.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol

from aiohttp import web

from runstore.gateway.config import GatewayConfig
from runstore.gateway.context import SERVICES, Caller, Services

_AT_ONCE: Final = 50
_SHARE: Final = 0.5
"""How much of the time that a stop may take goes into spreading the ends."""

_LOG = logging.getLogger("runstore.gateway.streams")


class Stream(Protocol):
    """Something open. Neither method may wait."""

    def revoke(self) -> None:
        """End, sending nothing more: the credential that opened it does not hold any longer."""
        ...

    def stop(self) -> None:
        """End: the gateway is stopping."""
        ...


class Streams:
    """All open streams of a gateway, each with who opened it."""

    def __init__(self, services: Services, config: GatewayConfig) -> None:
        self.config = config
        self._services = services
        self._open: dict[Stream, Caller] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: Stream, caller: Caller) -> None:
        """Watch over a stream."""
        self._open[stream] = caller
        if self._services.stopping.is_set():
            stream.stop()

    def remove(self, stream: Stream) -> None:
        """Watch over it no longer."""
        self._open.pop(stream, None)

    def sweep(self) -> None:
        """End what was opened by a credential that does not hold any longer."""
        holds: dict[bytes, bool] = {}
        for stream, caller in list(self._open.items()):
            if caller.digest not in holds:
                holds[caller.digest] = self._services.auth.still_valid(caller)
            if not holds[caller.digest]:
                self.remove(stream)
                stream.revoke()

    async def watch(self) -> None:
        """Sweep until the gateway stops, then stop every stream, spread over some of the time there is."""
        stopping = self._services.stopping
        while not stopping.is_set():
            try:
                async with asyncio.timeout(self.config.sweep_s):
                    await stopping.wait()
            except TimeoutError:
                try:
                    self.sweep()
                except Exception:  # noqa: BLE001 - a failed sweep is loud, and the next one comes
                    _LOG.exception("sweep_failed")
        await self._stop_all(_SHARE * self._services.config.shutdown_s)

    async def _stop_all(self, within_s: float) -> None:
        streams = list(self._open)
        step = max(_AT_ONCE, len(streams) // _AT_ONCE)
        for first in range(0, len(streams), step):
            for stream in streams[first : first + step]:
                if stream in self._open:
                    stream.stop()
            if not any(stream in self._open for stream in streams[first + step :]):
                return
            await asyncio.sleep(within_s * step / len(streams))


STREAMS: Final = web.AppKey("streams", Streams)
"""The open streams of an app."""


def install_streams(app: web.Application) -> None:
    """Give an app its streams.

    Needs: `SERVICES` in the app; called before it starts.
    """
    app[STREAMS] = Streams(app[SERVICES], app[SERVICES].config)
    app.cleanup_ctx.append(_watched)


async def _watched(app: web.Application) -> AsyncIterator[None]:
    watcher = asyncio.create_task(app[STREAMS].watch(), name="streams")
    yield
    watcher.cancel()
    await asyncio.wait([watcher])
