"""The courier: takes events to the store in the order in which they came, many at a time, or keeps them in the spool.

An event is in one of three places: in the queue, in a batch on its way, or in the spool. While anything is in the spool
the store counts as away: what comes then goes into the spool as well, behind what is there, so that the order holds and
nobody waits for a store that does not answer. Once the store answers again, and little is left in the spool, what comes
waits in the queue while that is sent: it would else keep the spool from ever being empty.

Where nothing is in any of these places, the one who brings an event *carries* it: it sends the event itself, without a
future and without waking another task, and all who come meanwhile wait in the queue. A task, the pump, stands by. It
sends what is in the queue as soon as nobody carries, many events at a time, and takes over, in front of the queue, an
event whose carrier met a failure or was cancelled; an attempt that has failed counts as one of the pump's. So whatever
can happen to an event beyond its acknowledgement happens in the pump: to be tried again, kept in the spool, given up,
or kept before the loop ends. The pump ends where nobody has needed it for some seconds.

Each `take` ends in one of three ways: acknowledged by the store, safe in the spool, or StoreUnavailable after the time
that was given, where the spool cannot keep it.

When the process dies: what was in the queue or on its way was promised to nobody; what is in the spool is found there
by the next process (`adoption`). Where a batch was sent and its answer lost, its events are sent again, which changes
nothing.
"""

import asyncio
import contextlib
import itertools
import logging
import random
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from runstore.background import off_loop
from runstore.core.errors import RunstoreError, StoreUnavailable
from runstore.core.event import Event
from runstore.publish.adoption import Adoption
from runstore.publish.config import PublisherConfig
from runstore.publish.delivery import BYTES_A_SECOND, Delivery
from runstore.publish.spool import Spool, SpoolFailed
from runstore.publish.trouble import Trouble
from runstore.wire.spool import encode_waiting

ATTEMPTS: Final = 3
"""How often a batch is sent before its events are spooled; the first time a connection may prove long dead."""

STANDS_BY_S: Final = 5.0
"""How long the pump waits for something to do before it ends."""

_CARRIED_BYTES: Final = 64 * 1024
"""How large an event may be that is carried: a small one is acknowledged or not before `close` waits no longer."""
_EVENT_BYTES: Final = 1024
_LOG: Final = logging.getLogger("runstore.publish")


class _Parcel(msgspec.Struct, kw_only=True, eq=False):
    event: Event
    size: int
    until: float
    heard_by: "list[asyncio.Future[str | None]]"
    """Whoever waits for what becomes of it, whoever handed it in first; they may have gone meanwhile."""

    def settle(self, cursor: str | None) -> None:
        for each in self.heard_by:
            if not each.done():
                each.set_result(cursor)

    def give_up(self, error: RunstoreError) -> None:
        for each in self.heard_by:
            if not each.done():
                each.set_exception(error)


class _Failed(NamedTuple):
    """What the carrier of the event in front of the queue met, and until when it may be tried again."""

    error: StoreUnavailable
    until: float


class Courier:
    """Takes events. Used from one event loop."""

    def __init__(self, delivery: Delivery, spool: Spool, adoption: Adoption, config: PublisherConfig) -> None:
        self._delivery = delivery
        self._spool = spool
        self.adoption = adoption
        self._config = config
        self._queue: deque[_Parcel] = deque()
        self._on_its_way: list[_Parcel] = []
        self._drained = asyncio.Event()
        self._queued_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._entrance = asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._pump: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._standby: asyncio.Future[None] | None = None
        self._is_carried = False
        self._carried = 0
        self._failed: _Failed | None = None
        self._carries = config.patience_s < config.timeout_s
        self._trouble = Trouble()
        self._spool_trouble = Trouble()
        self._ending = asyncio.Event()
        self._closed = False
        if spool.is_empty:
            self._drained.set()

    async def take(self, event: Event) -> str | None:
        """Take an event, and return its cursor when it is acknowledged, None when it is safe in the spool.

        It goes on its way also where the caller does not wait for it any longer.

        Raises: StoreUnavailable.
        """
        if not self._room.is_set() or self._entrance.locked():
            async with self._entrance:  # whoever came first is the first to find room
                while not self._room.is_set() and not self._closed:
                    await self._room.wait()
        if self._closed:
            raise StoreUnavailable("the publisher was closed")
        loop = asyncio.get_running_loop()
        parcel = self._parcel(event, loop.time())
        if self._is_at_rest and parcel.size <= _CARRIED_BYTES:
            return await self._carry(parcel)
        self._queue.append(parcel)
        self._weigh(parcel.size)
        return await self._heard(parcel)

    @property
    def _is_at_rest(self) -> bool:
        """Whether nothing is in the queue, on its way or in the spool, and the pump stands by."""
        return (
            self._standby is not None
            and not self._standby.done()
            and not self._is_carried
            and not self._queue
            and self._carries
            and self._keeper is None
            and not self._keeping.locked()
            and self._spool.is_empty
        )

    async def _carry(self, parcel: _Parcel) -> str | None:
        """Send a parcel from the caller's own task; where that does not succeed, leave it to the pump."""
        began = parcel.until - self._time_for(parcel.size)
        self._is_carried, self._on_its_way = True, [parcel]
        self._carried += 1
        try:
            result = await self._delivery.send_one(parcel.event)
        except asyncio.CancelledError:
            self._hand_over(parcel)
            if self._pump is None:  # it was cancelled as well, before: the loop is ending
                self._keep_now()
            raise
        except Exception as error:
            if isinstance(error, RunstoreError) and not error.retryable:
                parcel.give_up(error)
                raise
            if isinstance(error, StoreUnavailable):
                self._failed = _Failed(error, began + self._config.patience_s)
            self._hand_over(parcel)
        else:
            if not isinstance(result, StoreUnavailable):
                self._trouble.is_over()
                self.adoption.look()
                parcel.settle(result)
                return result
            self._hand_over(parcel)
        finally:
            self._is_carried = False
            if self._on_its_way and self._on_its_way[0] is parcel:
                self._on_its_way = []
            if self._queue or self._ending.is_set():
                self._wake()
        return await self._heard(parcel)

    def _hand_over(self, parcel: _Parcel) -> None:
        self._on_its_way = []
        self._put_back([parcel])

    async def _heard(self, parcel: _Parcel) -> str | None:
        """Wait for what becomes of a parcel that is in the queue."""
        heard: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        parcel.heard_by.insert(0, heard)
        if self._closed:
            self._keep_now()
            return await heard
        self.begin()
        if self._keeper is None and not self._spool.is_empty:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_what_comes())
        return await heard

    def begin(self) -> None:
        """Begin to send what there is, were it left in the spool by another loop of this process."""
        if self._pump is None and (self._queue or not self._spool.is_empty):
            self._pump = asyncio.get_running_loop().create_task(self._pump_all())
        elif not self._is_carried:
            self._wake()

    def _wake(self) -> None:
        if self._standby is not None and not self._standby.done():
            self._standby.set_result(None)

    async def _stand_by(self) -> bool:
        """Wait until there is something to do; false where there is nothing, or nothing more."""
        loop = asyncio.get_running_loop()
        while self._is_carried or not self._ending.is_set():
            carried, self._standby = self._carried, loop.create_future()
            timer = loop.call_later(STANDS_BY_S, self._wake)
            try:
                await self._standby
            finally:
                timer.cancel()
                self._standby = None
            if self._is_carried:
                continue
            if self._queue or not self._spool.is_empty:
                return True
            if self._carried == carried:
                return False
        return bool(self._queue)

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything that was taken so far is acknowledged.

        Raises: StoreUnavailable where it is not by then; what is in the spool is sent all the same.
        """
        try:
            async with asyncio.timeout(timeout_s):
                loop = asyncio.get_running_loop()
                heard = []
                for parcel in (*self._on_its_way, *self._queue):
                    heard.append(loop.create_future())
                    parcel.heard_by.append(heard[-1])
                await asyncio.gather(*heard)
                await self._drained.wait()
        except TimeoutError:
            raise StoreUnavailable(f"the store did not acknowledge all events within {timeout_s:g} s") from None

    async def close(self) -> None:
        """Send what is left, for a bounded time, and spool the rest. May be called twice.

        What is safe in the spool is not waited for longer than for one answer of a store that is away.
        """
        self._ending.set()
        if not self._is_carried:
            self._wake()
        if self._pump is not None:
            await asyncio.wait({self._pump}, timeout=self._config.timeout_s)
        self._closed = True
        self._room.set()
        if self._keeper is not None:
            await asyncio.wait({self._keeper})
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        self._keep_now()  # a pump that was cancelled before it began has not
        await self.adoption.stop(self._config.patience_s)
        await self._delivery.close()

    async def _pump_all(self) -> None:
        try:
            while True:
                try:
                    if self._keeping.locked():
                        async with self._keeping:  # whoever is keeping events is done with it, so that none overtakes
                            pass
                    batch = None
                    if self._spool.is_empty:
                        self._drained.set()
                        batch = self._next_batch()
                    if batch is None:
                        await self._send_waiting()
                    elif batch:
                        await self._send(batch)
                    elif await self._stand_by():
                        continue
                    else:
                        return
                    self._trouble.is_over()
                    self.adoption.look()
                except Exception as error:  # noqa: BLE001 - whatever it was, the events are still here and must go
                    self._trouble.tell(_LOG, "publish_put_off", error, queued=len(self._queue))
                    if self._ending.is_set() and not self._queue:
                        return
                    await self._pause()
        except asyncio.CancelledError:
            self._keep_now()
            raise
        finally:
            self._pump = None

    async def _send(self, batch: list[_Parcel]) -> None:
        self._on_its_way = batch
        try:
            results = await self._attempt([parcel.event for parcel in batch])
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        except Exception as error:
            if isinstance(error, RunstoreError) and not error.retryable:
                for parcel in batch:  # an address that cannot be one will not be one later
                    parcel.give_up(error)
                return
            await self._keep(batch)
            raise
        finally:
            self._on_its_way = []
        refused: list[tuple[_Parcel, StoreUnavailable]] = []
        for parcel, result in zip(batch, results, strict=True):
            if isinstance(result, StoreUnavailable):
                refused.append((parcel, result))
            else:
                parcel.settle(result)
        if refused:
            await self._keep([parcel for parcel, _ in refused])
            raise refused[0][1]

    async def _send_waiting(self) -> None:
        """Send from the spool; where it may become empty by that, nothing is put into it meanwhile."""
        answers = not self._trouble.count
        may_be_last = answers and self._spool.waiting_bytes <= self._config.batch_bytes
        async with self._keeping if may_be_last else contextlib.nullcontext():
            await self._delivery.send_waiting(self._spool)

    async def _keep(self, parcels: Sequence[_Parcel]) -> None:
        """Spool parcels that were not sent, and whatever came behind them."""
        self._put_back(parcels)
        async with self._keeping:
            await self._keep_all()

    async def _attempt(self, events: Sequence[Event]) -> list[str | StoreUnavailable]:
        clock = asyncio.get_running_loop().time
        failed, self._failed = self._failed, None
        error, until = failed or (None, clock() + self._config.patience_s)
        for attempt in itertools.count(1):
            if error is None:
                try:
                    return await self._delivery.send(events)
                except StoreUnavailable as met:
                    error = met
            if attempt == ATTEMPTS or clock() >= until:
                raise error
            error = None
            await asyncio.sleep(self._config.backoff_s * attempt)
        raise AssertionError("unreachable")

    async def _keep_what_comes(self) -> None:
        try:
            while self._queue and not self._spool.is_empty:
                async with self._keeping:
                    if not self._spool.is_empty and not await self._keep_all():
                        return
        finally:
            self._keeper = None

    async def _keep_all(self) -> bool:
        """Spool all that is queued; false where the spool cannot keep it. Needs: `_keeping`."""
        parcels = self._take_all()
        if not parcels:
            return True
        try:
            await off_loop(self._spool.append, [encode_waiting(parcel.event) for parcel in parcels])
        except BaseException as error:
            self._put_back(parcels)
            if not isinstance(error, SpoolFailed):
                raise
            self._tell_failure(error)
            return False
        self._spool_trouble.is_over()
        self._drained.clear()
        for parcel in parcels:
            parcel.settle(None)
        return True

    def _keep_now(self) -> None:
        """Spool all that is queued before the loop ends."""
        parcels = self._take_all()
        if not parcels:
            return
        try:
            self._spool.append([encode_waiting(parcel.event) for parcel in parcels])
        except SpoolFailed as error:
            self._tell_failure(error)
            for parcel in parcels:
                parcel.give_up(StoreUnavailable("the publisher was closed before the store was back"))
        else:
            for parcel in parcels:
                parcel.settle(None)

    async def _pause(self) -> None:
        now = asyncio.get_running_loop().time()
        for parcel in [parcel for parcel in self._queue if parcel.until <= now]:
            self._queue.remove(parcel)
            self._weigh(-parcel.size)
            parcel.give_up(
                StoreUnavailable(
                    f"no acknowledgement within {self._config.timeout_s:g} s; a repeat of the event does no harm"
                )
            )
        longest = min(self._config.max_backoff_s, self._config.backoff_s * 2 ** min(self._trouble.count, 20))
        pause_s = random.uniform(longest / 4, longest)  # noqa: S311 - spreads load only
        if self._ending.is_set():
            await asyncio.sleep(pause_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._ending.wait()

    def _next_batch(self) -> list[_Parcel]:
        batch: list[_Parcel] = []
        size = 0
        while self._queue and len(batch) < self._config.batch_events:
            size += self._queue[0].size
            if batch and size > self._config.batch_bytes:
                break
            batch.append(self._queue.popleft())
            self._weigh(-batch[-1].size)
        return batch

    def _take_all(self) -> list[_Parcel]:
        parcels, self._failed = list(self._queue), None
        self._queue.clear()
        self._weigh(-self._queued_bytes)
        return parcels

    def _put_back(self, parcels: Sequence[_Parcel]) -> None:
        """Put parcels in front, where they were: the order holds whatever becomes of them."""
        self._queue.extendleft(reversed(parcels))
        self._weigh(sum(parcel.size for parcel in parcels))

    def _weigh(self, more: int) -> None:
        self._queued_bytes += more
        if self._queued_bytes <= self._config.queue_bytes:
            self._room.set()
        else:
            self._room.clear()

    def _parcel(self, event: Event, now: float) -> _Parcel:
        size = _EVENT_BYTES + len(event.output or b"") + len(event.error_message or "")
        return _Parcel(event=event, size=size, until=now + self._time_for(size), heard_by=[])

    def _time_for(self, size: int) -> float:
        return self._config.timeout_s + size / BYTES_A_SECOND

    def _tell_failure(self, error: SpoolFailed) -> None:
        if self._config.spool_bytes:
            self._spool_trouble.tell(_LOG, "spool_failed", error, level=logging.ERROR, queued=len(self._queue))
