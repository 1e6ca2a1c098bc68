"""A watch as the link keeps it: what it asks for, where it stands, and what its reader has not taken yet."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from runstore.client.config import ClientConfig
from runstore.client.messages import Events, subscribe_project, subscribe_runs, unsubscribe
from runstore.client.run import Run, decode_run
from runstore.client.seen import Seen
from runstore.core.errors import RunstoreError
from runstore.core.event import Progress
from runstore.wire.messages import MAX_RUN_IDS

OnProgress = Callable[[str, Progress], None]


class Asked(NamedTuple):
    """What a watch asks for: runs or a project, which events, and whether with the payload."""

    run_ids: tuple[str, ...]
    project_name: str | None
    events: Events
    output: bool


class Item(NamedTuple):
    """A run that waits for the reader, the place behind it, and its size."""

    run: Run
    cursor: str | None
    size: int


class Part:
    """One subscription of a channel: at most a thousand runs, or a project."""

    def __init__(self, name: str, run_ids: tuple[str, ...], cursor: str | None) -> None:
        self.name = name
        self.run_ids = dict.fromkeys(run_ids)
        self.cursor = cursor
        self.sent = False
        self.put_off = False
        self.stood = False
        self.done = False


class Channel:
    """The state of one watch. The link writes into it, its reader takes from it."""

    def __init__(
        self, asked: Asked, names: Iterator[str], cursor: str | None, config: ClientConfig, progress: OnProgress | None
    ) -> None:
        self.asked = asked
        self.parts = [Part(next(names), ids, cursor) for ids in _thousands(asked.run_ids)]
        self.subscribed = asyncio.Event()
        self.was_subscribed = False
        self.catching_up: asyncio.Task[None] | None = None
        self.caught_up_since: str | None = None
        self.error: RunstoreError | None = None
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._stalled = False
        self._seen = Seen()
        self._config = config
        self._progress = progress

    @property
    def over(self) -> bool:
        """Whether nothing will come any more."""
        return self.error is not None or all(part.done for part in self.parts)

    @property
    def cursor(self) -> str | None:
        """Where the channel stands, behind all that waits for the reader; None also where it is several places."""
        return self.parts[0].cursor if len(self.parts) == 1 else None

    def commands(self) -> list[bytes]:
        """Return what is to be sent now."""
        if self._stalled or self.error is not None:
            return []
        return [self._subscribe(part) for part in self.parts if not (part.sent or part.done or part.put_off)]

    def let_go(self) -> list[bytes]:
        """Return what ends the subscriptions."""
        gone = [unsubscribe(part.name) for part in self.parts if part.sent and not part.done]
        for part in self.parts:
            part.sent = False
        return gone

    def rename(self, names: Iterator[str]) -> None:
        """Take new names, so that what is still on its way for the old ones is known for that."""
        for part in self.parts:
            if self.asked.run_ids and not part.run_ids:
                part.done = True
            part.name = next(names)

    def disconnected(self) -> None:
        """Take note that the connection is gone: what was asked for is to be asked for again."""
        for part in self.parts:
            part.sent = part.put_off = False
            if self.asked.run_ids and not part.run_ids:
                self.finish(part)
        self._seen.resumed()

    def stands(self, part: Part, run_ids: tuple[str, ...], cursor: str | None) -> None:
        """Take note that a subscription stands, for these full ids."""
        if run_ids and self.asked.run_ids:
            part.run_ids = dict.fromkeys(run_ids)
        part.cursor = cursor or part.cursor
        self.was_subscribed = True
        part.stood = True
        if all(part.stood or part.done for part in self.parts):
            self.subscribed.set()

    def offer(
        self, text: bytes, part: Part | None = None, cursor: str | None = None, *, was_asked_for: bool | None = None
    ) -> bool:
        """Take a run for the reader; false where the reader is so slow that the subscriptions are to be let go.

        Without a `cursor` it came by another way than a subscription, which cannot be let go; it then counts as asked
        for, and may always be a repeat, unless told.
        """
        if self._stalled:
            return True
        run = decode_run(text)
        if part is not None:
            part.cursor = cursor or part.cursor
            if run.is_terminal:
                part.run_ids.pop(run.run_id, None)
        if (run.is_terminal or self.asked.events == "all") and self._seen.is_news(
            run, text, was_asked_for=cursor is None if was_asked_for is None else was_asked_for
        ):
            self._items.append(Item(run, cursor, len(text)))
            self._bytes += len(text)
            self._news.set()
        full = len(self._items) > self._config.buffer_items or self._bytes > self._config.buffer_bytes
        self._stalled = full and cursor is not None
        return not self._stalled

    def offer_polled(self, run: Run, text: bytes, part: Part, *, was_asked_for: bool = True) -> None:
        """Take a run that was asked for under its full id, because it was due or because a stream told of it."""
        if not self.asked.output:
            text = msgspec.structs.replace(run, output=None).to_json()
        self.offer(text, part, was_asked_for=was_asked_for)
        if not part.run_ids:
            self.finish(part)

    def told_upto(self, part: Part, cursor: str) -> None:
        """Take note of how far a stream of one run has told, where the watch is of no other."""
        if len(self.asked.run_ids) == 1:
            part.cursor = cursor

    def lacks_end(self, run_id: str) -> bool:
        """Whether a run's end was not handed out yet."""
        return not self._seen.has_ended(run_id)

    def look_again(self) -> None:
        """Take note that places were lost, so that what comes next may be a repeat."""
        self._seen.resumed()

    def tell_progress(self, run_id: str, progress: Progress) -> None:
        """Pass progress on to whoever asked for it."""
        if self._progress is not None:
            self._progress(run_id, progress)

    def finish(self, part: Part) -> None:
        """Take note that every run of a subscription has ended."""
        part.done = True
        self._news.set()
        self.subscribed.set()

    def fail(self, error: RunstoreError) -> None:
        """End the channel by an error, which the reader gets after what waits for it."""
        self.error = self.error or error
        self._news.set()
        self.subscribed.set()

    async def take(self) -> list[Item]:
        """Wait for runs and take all that are there; empty when nothing will come any more.

        Raises: the error that ended the channel.
        """
        while not self._items and not self.over:
            self._news.clear()
            await self._news.wait()
        taken, self._items, self._bytes = list(self._items), deque(), 0
        if not taken and self.error is not None:
            raise self.error
        return taken

    def resume(self) -> bool:
        """Begin again where the reader had been too slow; true where there is something to ask for again."""
        resumes = self._stalled and not self._items
        if resumes:
            self._stalled = False
            self._seen.resumed()
        return resumes

    def _subscribe(self, part: Part) -> bytes:
        part.sent = True
        if self.asked.project_name is not None:
            return subscribe_project(
                part.name,
                self.asked.project_name,
                events=self.asked.events,
                output=self.asked.output,
                cursor=part.cursor,
            )
        return subscribe_runs(
            part.name, list(part.run_ids), events=self.asked.events, output=self.asked.output, cursor=part.cursor
        )


_NO_RUNS: Final[tuple[str, ...]] = ()


def _thousands(run_ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    starts = range(0, len(run_ids), MAX_RUN_IDS)
    return [run_ids[start : start + MAX_RUN_IDS] for start in starts] or [_NO_RUNS]
