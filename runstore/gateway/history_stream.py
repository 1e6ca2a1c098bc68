"""A run's events as a stream: join the feed, tell the history, go on live, end after the terminal event."""

from collections.abc import Sequence
from typing import Final

import msgspec
from aiohttp import web

from runstore.core.cursor import Place, Standing
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId, Progress
from runstore.core.ids import RunId
from runstore.core.run import HistoryItem
from runstore.core.status import TERMINAL
from runstore.core.times import to_iso
from runstore.feed import FeedTail, Push, Rollback
from runstore.gateway.answers import CURSOR
from runstore.gateway.context import Services, principal_of
from runstore.gateway.socket_places import since_of
from runstore.gateway.sse import LISTENING, NEVER_AGAIN, EventStream, frame, last_event_id
from runstore.wire.cursor import decode_cursor, encode_cursor
from runstore.wire.views import encode, view_event

_BEGINNING: Final = EntryId(0, 0)


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    progress: Progress


class _Reset(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    since: str
    detail: str


async def stream_events(request: web.Request, services: Services, run_id: RunId) -> web.StreamResponse:
    """Answer with the events of a run as they come.

    Raises: InvalidRequest, RateLimited, StoreUnavailable; once the stream is open it is cut instead.
    """
    stream = EventStream(request)
    teller = _Teller(stream, services, run_id, last_event_id(request))
    tail = services.tail
    tail.hub.join(teller, run_ids=(run_id,))
    try:
        with services.holds.hold(principal_of(request)):
            first = await teller.tell_history()
            await stream.open({CURSOR: encode_cursor(tail.cursor_for(run_id))})
            await stream.write(first or LISTENING)
            while not teller.is_over and not stream.is_ended:
                await stream.pause()
                await stream.write(await teller.tell_news())
            if teller.is_over:
                await stream.write(NEVER_AGAIN)
    except StoreUnavailable:
        if not stream.is_open:
            raise
        stream.cut()
    finally:
        tail.hub.leave(teller, run_ids=(run_id,))
        stream.close()
    return stream.response


class _Teller:
    """What is still to be told of one run: hears the feed, and frames events."""

    def __init__(self, stream: EventStream, services: Services, run_id: RunId, last_id: str | None) -> None:
        self.is_over = False
        self._stream = stream
        self._services = services
        self._run_id = run_id
        self._principal = principal_of(stream.request)
        self._asked = decode_cursor(last_id) if last_id is not None else ()
        self._waiting: list[tuple[HistoryItem, Place]] = []
        self._waiting_bytes = 0
        self._progress: Progress | None = None
        self._upto: EntryId | None = None
        self._life = 0
        self._told_life = -1
        self._reset: _Reset | None = None

    def hear(self, pushes: Sequence[Push]) -> None:
        """Take what happened to the run."""
        for push in pushes:
            if not self._principal.may_see(push.run.project_name, self._run_id):
                continue
            if push.item is not None:
                self._waiting.append((push.item, push.place if push is pushes[-1] else _own_place(push)))
                self._waiting_bytes += len(push.item.error_message or "") + 256
            if push.has_progress:
                self._progress = push.run.progress
        if self._waiting_bytes > self._stream.limit_bytes and not self._stream.is_ended:
            self._stream.counts.slow_readers += 1
            self._stream.cut()
        self._stream.news.set()

    def rolled_back(self, rollback: Rollback) -> None:
        """Begin anew."""
        if self._services.tail.partition_of(self._run_id) in rollback.partitions:
            self._life += 1
            self._waiting.clear()
            self._waiting_bytes = 0
            self._reset = _Reset(run_id=self._run_id, since=to_iso(rollback.since_us), detail=rollback.detail)
            self._stream.news.set()

    async def tell_history(self) -> bytes:
        """Look at the history, and frame what the client has not got of it.

        Raises: StoreUnavailable.
        """
        tail = self._services.tail
        while True:
            life = self._life
            try:
                if self._upto is None or self._reset is not None:
                    self._upto = await self._find_beginning(tail)
                history = await self._services.runs.history(self._run_id)
                record = await self._services.lookup.record_for(self._principal, self._run_id)
                if record is None:
                    history = []  # after a rollback the run may be another project's, or none
                else:
                    await tail.told(tail.partition_of(self._run_id), record.version)
            except StoreUnavailable:
                if life == self._life:
                    raise
                continue
            if life == self._life:
                break
        self._told_life = life
        framed = [] if self._reset is None else [frame("reset", encode(self._reset))]
        self._reset = None
        here = tail.place(tail.partition_of(self._run_id))
        for number, item in enumerate(history, 1):
            is_newest = number == len(history) and not self._waiting and item.entry_id <= (here.folded or _BEGINNING)
            framed.append(self._frame(item, here if is_newest else _place_in_log(here, item)))
        return b"".join(framed) + self._frame_waiting()

    async def tell_news(self) -> bytes:
        """Frame what came since; the whole history after a rollback.

        Raises: StoreUnavailable.
        """
        return self._frame_waiting() if self._told_life == self._life else await self.tell_history()

    async def _find_beginning(self, tail: FeedTail) -> EntryId:
        """Return the last entry that the client has seen: the beginning where its place is lost, and say so."""
        place = next((p for p in self._asked if p.partition == tail.partition_of(self._run_id)), None)
        self._asked = ()
        if place is None or self._reset is not None:
            return _BEGINNING
        standing = (await tail.judge((place,)))[place.partition]
        seen = place.entry or place.folded
        if standing is not Standing.LOST and seen is None and place.n > 0:
            entries = await tail.read(place.partition, place.n - 1, place.n)
            seen = EntryId(*entries[0].entry) if entries else None
        if standing is not Standing.LOST and (seen is not None or place.n == 0):
            return seen or _BEGINNING
        self._reset = _Reset(
            run_id=self._run_id,
            since=since_of([place], tail.config.rollback_slack_s),
            detail="the event id cannot be served any more: the events follow from the first",
        )
        return _BEGINNING

    def _frame_waiting(self) -> bytes:
        framed = [self._frame(item, place) for item, place in self._waiting]
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._progress is not None and not self.is_over:
            framed.append(frame("progress", encode(_Told(run_id=self._run_id, progress=self._progress))))
        self._progress = None
        return b"".join(framed)

    def _frame(self, item: HistoryItem, place: Place) -> bytes:
        if self.is_over or item.entry_id <= (self._upto or _BEGINNING):
            self.is_over = self.is_over or _is_terminal(item)
            return b""
        self._upto = item.entry_id
        self.is_over = _is_terminal(item)
        self._stream.counts.stream_pushes += 1
        data = b'{"run_id":%b,%b' % (encode(self._run_id), encode(view_event(item))[1:])
        return frame("transition", data, encode_cursor((place,)))


def _is_terminal(item: HistoryItem) -> bool:
    return item.status in TERMINAL and not item.ignored


def _own_place(push: Push) -> Place:
    assert push.item is not None
    return _place_in_log(push.place, push.item)


def _place_in_log(here: Place, item: HistoryItem) -> Place:
    return Place(partition=here.partition, epoch=here.epoch, entry=item.entry_id)
