"""Deliver events to the store: one attempt, bounded in time, for events at hand and for those that wait in a spool."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import Event
from runstore.publish.config import PublisherConfig
from runstore.publish.held import HeldStore, Ready
from runstore.publish.spool import Spool, off_loop
from runstore.wire.event import decode_event, encode_event

BYTES_A_SECOND: Final = 4 * 1024 * 1024
"""How fast a store is that is not counted as away."""

_LOG: Final = logging.getLogger("runstore.publish")


class Delivery:
    """The way from events to the log. Used from one event loop."""

    def __init__(self, held: HeldStore, config: PublisherConfig) -> None:
        self._held = held
        self._config = config

    async def send(self, events: Sequence[Event]) -> list[str | StoreUnavailable]:
        """Append events in order and return their cursors; an error stands for one that the server refused by itself.

        Raises: StoreUnavailable where none is known to be in the log; any may be there all the same.
        """
        size = sum(len(event.output or b"") for event in events)
        try:
            async with asyncio.timeout(self._config.patience_s + size / BYTES_A_SECOND) as limit:
                return await self._send(events)
        except TimeoutError:
            self._held.doubt()
            if not limit.expired():
                raise
            raise StoreUnavailable(f"no acknowledgement within {self._config.patience_s:g} s") from None
        except StoreUnavailable:
            self._held.doubt()
            raise

    async def send_waiting(self, spool: Spool) -> None:
        """Send the first events that wait in a spool; those that the server refuses by themselves go to its end.

        Raises: StoreUnavailable; SpoolFailed, OSError where the spool cannot be read or written.
        """
        batch = await off_loop(spool.read, self._config.batch_events, self._config.batch_bytes)
        events = [event for text in batch.events if (event := _event_of(text)) is not None]
        results = await self.send(events) if events else []
        refused = [event for event, result in zip(events, results, strict=True) if isinstance(result, StoreUnavailable)]
        if refused:
            await off_loop(spool.append, [encode_event(event) for event in refused])
        await off_loop(spool.advance, batch)
        _LOG.info("spool_delivered", extra={"events": len(events) - len(refused), "refused": len(refused)})

    async def _send(self, events: Sequence[Event]) -> list[str | StoreUnavailable]:
        readies: list[Ready] = []
        payloads = []
        for event in events:
            ready = await self._held.ready(event.run_id)
            if event.output is not None and len(event.output) > self._config.inline_output_bytes:
                ref = await ready.store.outputs.write(event.run_id, event.output)
                event = msgspec.structs.replace(event, output=None, output_ref=ref)  # noqa: PLW2901
            readies.append(ready)
            payloads.append((event.run_id, encode_event(event)))
        entries = await readies[0].store.log.append_many(payloads)
        return [
            entry if isinstance(entry, StoreUnavailable) else ready.cursor(entry)
            for ready, entry in zip(readies, entries, strict=True)
        ]


def _event_of(text: bytes) -> Event | None:
    try:
        return decode_event(text)[0]
    except RunstoreError as error:  # written by another version
        _LOG.error("spooled_event_unreadable", extra={"reason": error.detail[:200]})
        return None
