"""A run's logs as a stream: events `stdout` and `stderr` with a piece of text each, then `done`.

Event ids: `l` and a place in the log stream, `o` and how many characters of stdout and stderr of the output were
told, `done`.
"""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from runstore.core.errors import InvalidRequest, StoreUnavailable
from runstore.core.ids import RunId
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.core.subscription import WHOLE_COMMIT, Change, Subscription, Version
from runstore.feed import Push, Rollback
from runstore.gateway.answers import CURSOR
from runstore.gateway.context import Services, principal_of
from runstore.gateway.logs_read import Decoders, Left, read_left
from runstore.gateway.sse import NEVER_AGAIN, EventStream, frame, last_event_id
from runstore.wire.cursor import encode_cursor
from runstore.wire.views import encode

_ID: Final = re.compile(r"(?:l(?P<place>\d{1,19}-\d{1,19}))|(?:o(?P<out>\d{1,12})-(?P<err>\d{1,12}))|(?P<done>done)")
_PIECE_CHARACTERS: Final = 16 * 1024
_IDLE_POLLS: Final = 4
_DONE: Final = "done"


class _Piece(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class _Done(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    status: Status


class _Place(NamedTuple):
    """Where a reader stands: in the log stream, in the output, at the end."""

    after: str | None = None
    stdout: int = 0
    stderr: int = 0
    is_done: bool = False


async def stream_logs(request: web.Request, services: Services, run_id: RunId) -> web.StreamResponse:
    """Answer with the logs of a run as they come, until it has ended.

    Raises: InvalidRequest, RateLimited, StoreUnavailable; once the stream is open it is cut instead.
    """
    place = _read_place(last_event_id(request))
    stream = EventStream(request)
    end = _End(stream, services, run_id)
    services.tail.hub.join(end, run_ids=(run_id,))
    try:
        with services.holds.hold(principal_of(request)):
            await end.look()
            await stream.open({CURSOR: encode_cursor(services.tail.cursor_for(run_id))})
            async for packed in _tell(stream, services, end, place):
                await stream.write(packed)
                if stream.is_ended:
                    break
    except StoreUnavailable:
        if not stream.is_open:
            raise
        stream.cut()
    finally:
        services.tail.hub.leave(end, run_ids=(run_id,))
        stream.close()
    return stream.response


async def _tell(stream: EventStream, services: Services, end: "_End", place: _Place) -> AsyncIterator[bytes]:
    if place.is_done:
        yield NEVER_AGAIN
        return
    after = place.after
    if after is None:
        left = await read_left(services, end.run) if end.run is not None and end.run.is_terminal else None
        if left is None:
            after = "0"
        else:
            for packed in _cut(left, place):
                yield packed
    if after is not None:
        async for packed in _follow(stream, services, end, after):
            yield packed
    if end.run is not None and end.run.is_terminal:
        yield frame(_DONE, encode(_Done(run_id=end.run_id, status=end.run.status)), _DONE) + NEVER_AGAIN


async def _follow(stream: EventStream, services: Services, end: "_End", after: str) -> AsyncIterator[bytes]:
    decoders, idle = Decoders(), 0
    began_anew = after == "0"
    while not stream.is_ended:
        await end.look()
        has_ended = end.run is not None and end.run.is_terminal
        chunks = await services.store.logs.read_logs(end.run_id, after, 0)
        if chunks:
            began_anew, idle, after = False, 0, chunks[-1].after
            yield b"".join(
                frame(chunk.stream, encode(_Piece(text=decoders.decode(chunk.stream, chunk.data))), f"l{chunk.after}")
                for chunk in chunks
            )
        elif has_ended:
            break
        else:
            idle = min(_IDLE_POLLS, idle + 1)
            await stream.pause(stream.poll_s * idle)
    if began_anew and end.run is not None and not stream.is_ended:
        left = await read_left(services, end.run)
        for packed in _cut(left, _Place()) if left is not None else ():
            yield packed


def _cut(left: Left, place: _Place) -> Iterator[bytes]:
    out, err = place.stdout, place.stderr
    while out < len(left.stdout):
        piece = left.stdout[out : out + _PIECE_CHARACTERS]
        out += len(piece)
        yield frame("stdout", encode(_Piece(text=piece)), f"o{out}-{err}")
    while err < len(left.stderr):
        piece = left.stderr[err : err + _PIECE_CHARACTERS]
        err += len(piece)
        yield frame("stderr", encode(_Piece(text=piece)), f"o{out}-{err}")


class _End:
    """Hears of the end of the run whose logs are followed."""

    def __init__(self, stream: EventStream, services: Services, run_id: RunId) -> None:
        self.run_id = run_id
        self.run: Run | None = None
        self._stream = stream
        self._services = services
        self._principal = principal_of(stream.request)
        self._speech: Subscription[Run] = Subscription(frozenset((run_id,)), every_change=False)
        self._life = 0
        self._looked_life = -1

    async def look(self) -> None:
        """Look the run up where that was not done since the feed began.

        Raises: StoreUnavailable.
        """
        while self._looked_life != self._life:
            life = self._life
            record = await self._services.lookup.record_for(self._principal, self.run_id)
            if life != self._life:
                continue
            self._looked_life = life
            snapshot: Change[Run] | None = None
            if record is not None:
                version = Version(record.version, WHOLE_COMMIT)
                snapshot = Change(self.run_id, version, record.run.is_terminal, record.run)
            self._take(self._speech.look(self.run_id, snapshot))

    def hear(self, pushes: Sequence[Push]) -> None:
        for push in pushes:
            if self._principal.may_see(push.run.project_name, self.run_id):
                self._take(self._speech.hear(Change(self.run_id, push.version, push.run.is_terminal, push.run)))

    def rolled_back(self, rollback: Rollback) -> None:
        if self._services.tail.partition_of(self.run_id) in rollback.partitions:
            self._life += 1
            self._speech.forget(self.run_id)

    def _take(self, spoken: Sequence[Change[Run]]) -> None:
        for change in spoken:
            self.run = change.payload
            self._stream.news.set()


def _read_place(event_id: str | None) -> _Place:
    if event_id is None:
        return _Place()
    match = _ID.fullmatch(event_id)
    if match is None:
        raise InvalidRequest(f"{event_id[:40]!r} is no Last-Event-ID of logs: give one as it was received")
    if match["done"]:
        return _Place(is_done=True)
    if match["place"]:
        return _Place(after=match["place"])
    return _Place(stdout=int(match["out"]), stderr=int(match["err"]))
