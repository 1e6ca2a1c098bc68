"""Deliver events to the store: one attempt, bounded in time, for events at hand and for those that wait in a spool.

A run that is tracked is held by a lease before the event that begins it is in the log, whoever delivers that and
however late: be it a spool's, whose process has died meanwhile, or one that another life of the store has lost. So
there is no run that has begun and that nobody would end.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from runstore.background import off_loop
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import Event
from runstore.publish import holds
from runstore.publish.config import PublisherConfig
from runstore.publish.held import HeldStore, Ready
from runstore.publish.recent import Acknowledged
from runstore.publish.resending import Resending
from runstore.publish.spool import Spool
from runstore.wire.cursor import encode_cursor
from runstore.wire.event import encode_event
from runstore.wire.spool import decode_waiting

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

BYTES_A_SECOND: Final = 4 * 1024 * 1024
"""How fast a store is that is not counted as away."""

_LOG: Final = logging.getLogger("runstore.publish")
_T = TypeVar("_T")


class Refused(StoreUnavailable):
    """The server is well, but takes none of these events: their partitions are damaged."""


class Delivery:
    """The way from events to the log. Used from one event loop."""

    def __init__(self, held: HeldStore, config: PublisherConfig) -> None:
        self._held = held
        self._config = config
        self._resending = Resending(held, config, self.send)
        self._at_once = config.batch_events

    async def send(self, events: Sequence[Event]) -> list[str | StoreUnavailable]:
        """Append events in order and return their cursors; an error stands for one whose partition takes nothing.

        Raises: StoreUnavailable where none is known to be in the log; any may be there all the same.
        """
        size = sum(len(event.output or b"") for event in events)
        return await self._in_time(self._send(events), size)

    async def send_one(self, event: Event) -> str | StoreUnavailable:
        """Append one event as `send` does, at less cost where it is small and nothing has to be asked for before.

        Raises: StoreUnavailable where it is not known to be in the log; it may be there all the same.
        """
        ready, size = self._held.at_hand(event.run_id), len(event.output or b"")
        if ready is None or event.hold is not None or size > self._config.inline_output_bytes:
            return (await self.send([event]))[0]
        return await self._in_time(self._send_one(event, ready), size)

    async def _in_time(self, work: Awaitable[_T], size: int) -> _T:
        try:
            async with asyncio.timeout(self._config.patience_s + size / BYTES_A_SECOND) as limit:
                return await work
        except TimeoutError:
            self._held.doubt()
            if not limit.expired():
                raise
            raise StoreUnavailable(f"no acknowledgement within {self._config.patience_s:g} s") from None
        except StoreUnavailable:
            self._held.doubt()
            raise

    async def send_waiting(self, spool: Spool) -> None:
        """Send the first events that wait in a spool; those whose partition takes nothing wait on.

        After each failure half as many are tried, and after each success a quarter more: a store or a machine that is
        too slow for a whole batch would else be sent the same one for ever, and never be seen to take it.

        Raises: Refused where it took none of them; StoreUnavailable; OSError where the spool cannot be read.
        """
        batch = await off_loop(spool.read, self._at_once, self._config.batch_bytes)
        events = {number: event for number, text in enumerate(batch.events) if (event := _event_of(text)) is not None}
        sent = [event for event in events.values() if event.run_id not in spool.aside]
        try:
            results = await self.send(sent) if sent else []
        except StoreUnavailable:
            self._at_once = max(1, min(self._at_once, len(sent)) // 2)
            raise
        self._at_once = min(self._config.batch_events, self._at_once + self._at_once // 4 + 1)
        refused = {
            event.run_id for event, result in zip(sent, results, strict=True) if isinstance(result, StoreUnavailable)
        } | spool.aside
        left = {number: event.run_id for number, event in events.items() if event.run_id in refused}
        await off_loop(spool.advance, batch, left)
        if left and len(left) == len(events):
            raise Refused(f"the partitions of {len(left)} events that wait take nothing: see `runstore doctor`")
        _LOG.info("spool_delivered", extra={"events": len(events) - len(left), "refused": len(left)})

    async def close(self) -> None:
        """Watch no longer over what was acknowledged; what is known to be lost is sent first, for a bounded time."""
        await self._resending.close(self._config.patience_s)

    async def _send(self, events: Sequence[Event]) -> list[str | StoreUnavailable]:
        store = await self._held.store()
        asked = holds.holds_of(events)
        unheld = await holds.take(store, asked)
        found = await self._held.ready(event.run_id for event in events)
        readies = [unheld.get(event.run_id, ready) for event, ready in zip(events, found, strict=True)]
        sent = [(event, ready) for event, ready in zip(events, readies, strict=True) if isinstance(ready, Ready)]
        cursors = iter(await self._append(store, sent) if sent else [])
        await holds.let_go(store, asked)
        return [next(cursors) if isinstance(ready, Ready) else ready for ready in readies]

    async def _send_one(self, event: Event, ready: Ready) -> str | StoreUnavailable:
        store = ready.store
        entry = (await store.log.append_many([(event.run_id, encode_event(event))]))[0]
        if isinstance(entry, StoreUnavailable):
            return entry
        place, now = ready.place(entry), asyncio.get_running_loop().time()
        self._resending.note([Acknowledged(event=event, place=place, life=store.connections.made, at=now)])
        return encode_cursor((place,))

    async def _append(self, store: "RedisStore", sent: Sequence[tuple[Event, Ready]]) -> list[str | StoreUnavailable]:
        most = self._config.inline_output_bytes
        large = [(event.run_id, event.output) for event, _ in sent if event.output and len(event.output) > most]
        refs = iter(await store.outputs.write_each(large) if large else [])
        payloads = []
        for event, _ in sent:
            if event.output and len(event.output) > most:
                event = msgspec.structs.replace(event, output=None, output_ref=next(refs))  # noqa: PLW2901
            payloads.append((event.run_id, encode_event(event)))
        entries = await store.log.append_many(payloads)
        life, now = store.connections.made, asyncio.get_running_loop().time()
        self._resending.note(
            [
                Acknowledged(event=event, place=ready.place(entry), life=life, at=now)
                for (event, ready), entry in zip(sent, entries, strict=True)
                if not isinstance(entry, StoreUnavailable)
            ]
        )
        return [
            entry if isinstance(entry, StoreUnavailable) else ready.cursor(entry)
            for (_, ready), entry in zip(sent, entries, strict=True)
        ]


def _event_of(text: bytes) -> Event | None:
    try:
        return decode_waiting(text)
    except RunstoreError as error:  # written by another version
        _LOG.error("spooled_event_unreadable", extra={"reason": error.detail[:200]})
        return None
