"""Where websockets are refused: the same waits and watches, each run heard by a stream of events, else by long poll.

A worker takes one run at a time: it asks for it, and, where it has not ended, holds on to it: by a stream from the
place where the run was last heard of, or, where streams do not get through, by a request that the gateway holds. With
more runs than can be held nothing is held, and the runs take turns.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from runstore.client.backoff import pause_s
from runstore.client.channel import Channel, Part
from runstore.client.desk import Desk
from runstore.client.http import Answer, Http
from runstore.client.projects import follow_project
from runstore.client.run import Run, decode_run
from runstore.client.sse import SentEvent
from runstore.client.streams import StreamRefused, Streams, Transition, decode_step, decode_transition
from runstore.core.errors import CursorLost, RunNotFound, RunstoreError
from runstore.core.ids import parse_run_id
from runstore.core.status import Status

_LOG = logging.getLogger("runstore.client")
_AT_ONCE: Final = 48
"""Runs that are held at one time."""
_HOLD_S: Final = 20
_TURN_S: Final = 0.1
_LEAST_S: Final = 0.5
_UNKNOWN_S: Final = 0.5
_CURSOR: Final = "Runstore-Cursor"
Watching = list[tuple[Channel, Part]]


class Poller:
    """Serves a desk without a websocket for as long as it is told to."""

    def __init__(self, http: Http, desk: Desk) -> None:
        self._http = http
        self._desk = desk
        self._streams = Streams(http)
        self._turns: deque[str] = deque()
        self._known: set[str] = set()
        self._held: dict[str, asyncio.Timeout] = {}
        self._places: dict[str, str] = {}
        self._turn = asyncio.Condition()

    @property
    def _is_crowded(self) -> bool:
        return len(self._known) > _AT_ONCE

    def forget_places(self) -> None:
        """Forget how far runs were told: a websocket has told more since."""
        self._places.clear()

    async def run(self, for_s: float, dirty: asyncio.Event) -> None:
        """Serve the desk until the time is over, or nothing is awaited and watched any more.

        Needs: `dirty` is set whenever something is added to the desk or taken from it.
        """
        self._turns.clear()
        self._known.clear()
        projects: dict[Channel, asyncio.Task[None]] = {}
        met: set[Channel] = set()
        loop = asyncio.get_running_loop()
        workers = [loop.create_task(self._work(dirty)) for _ in range(_AT_ONCE)]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(for_s):
                    while self._desk.busy:
                        dirty.clear()
                        new = [channel for channel in self._desk.channels if channel not in met]
                        met.update(new)
                        for channel in new:
                            if channel.asked.project_name is not None:
                                projects[channel] = loop.create_task(follow_project(self._http, channel, dirty))
                            else:
                                # A run's end stays to be seen, so that nothing can be missed from here on.
                                channel.subscribed.set()
                        await self._add_turns()
                        self._let_go({run_id for channel in new for part in channel.parts for run_id in part.run_ids})
                        await dirty.wait()
        finally:
            for task in (*workers, *projects.values()):
                task.cancel()
            await asyncio.gather(*workers, *projects.values(), return_exceptions=True)

    async def _add_turns(self) -> None:
        new = dict.fromkeys(key for key in self._wanted() if key not in self._known)
        if new:
            self._known.update(new)
            self._turns.extend(new)
            async with self._turn:
                self._turn.notify(len(new))

    def _let_go(self, renewed: set[str]) -> None:
        """Hold no longer what nobody wants, what a new watch has to be told of first, or anything in a crowd."""
        wanted = frozenset(self._wanted()) - renewed if self._held and not self._is_crowded else frozenset()
        for key, hold in self._held.items():
            if key not in wanted and not hold.expired():
                hold.reschedule(asyncio.get_running_loop().time())

    def _wanted(self) -> Iterator[str]:
        yield from self._desk.awaited
        for _, part in self._parts():
            yield from part.run_ids

    def _parts(self) -> Iterator[tuple[Channel, Part]]:
        for channel in self._desk.channels:
            for part in channel.parts:
                yield channel, part

    def _watching(self, key: str) -> Watching:
        return [(channel, part) for channel, part in self._parts() if key in part.run_ids]

    async def _work(self, dirty: asyncio.Event) -> None:
        attempt = 0
        while True:
            async with self._turn:
                await self._turn.wait_for(lambda: self._turns)
            key = self._turns.popleft()
            pause = 0.0
            if not self._watching(key) and not self._desk.is_awaited(key):
                self._known.discard(key)
                self._places.pop(key, None)
                continue
            try:
                pause = await self._take_turn(key)
                attempt = 0
            except RunstoreError as error:
                pause, attempt = pause_s(self._http.config, attempt), attempt + 1
                if not error.retryable:
                    self._fail(key, error)
            except msgspec.MsgspecError:
                _LOG.exception("run_unreadable")
                pause, attempt = pause_s(self._http.config, attempt), attempt + 1
            if not self._desk.busy:
                dirty.set()
            await asyncio.sleep(pause)
            self._turns.append(key)

    async def _take_turn(self, key: str) -> float:
        """Ask for a run, hold on to it, tell whoever waits for it; return the seconds until its next turn."""
        clock = asyncio.get_running_loop().time
        began_at = clock()
        try:
            if self._is_crowded:
                await self._ask(key)
                return _TURN_S
            hold = asyncio.timeout(None)
            with contextlib.suppress(TimeoutError):
                async with hold:
                    self._held[key] = hold
                    await self._hold(key)
        except RunNotFound:
            if not _is_whole(key):
                raise
            return _UNKNOWN_S
        except CursorLost:
            self._lose_place(key)
            return 0.0
        finally:
            self._held.pop(key, None)
        # What drops `Prefer`, or cuts streams, must not be asked without end.
        return 0.0 if hold.expired() else max(0.0, _LEAST_S - (clock() - began_at))

    async def _hold(self, key: str) -> None:
        if self._streams.get_through:
            try:
                await self._listen(key)
            except StreamRefused:
                pass
            else:
                return
        watching = self._watching(key)
        await self._ask(key, hold_s=1 if any(_hears_all(channel) for channel, _ in watching) else _HOLD_S)

    async def _ask(self, key: str, *, hold_s: int = 0) -> None:
        answer = await self._get(key, hold_s)
        self._tell(key, answer, decode_run(answer.body), self._watching(key))
        await self._add_turns()

    async def _listen(self, key: str) -> None:
        """Ask for a run, and hear its stream from the place where it was last heard of.

        Raises: StreamRefused.
        """
        place = self._place(key)
        answer = await self._get(key, 0)
        run = decode_run(answer.body)
        # Whoever hears each transition and knows its place hears them from there, one after the other.
        told_first = [(c, p) for c, p in self._watching(key) if place is None or not _hears_all(c) or key != run.run_id]
        self._tell(key, answer, run, told_first)
        await self._add_turns()
        if key != run.run_id or not (self._watching(key) or self._desk.is_awaited(key)):
            return
        place = place or answer.headers.get(_CURSOR)
        is_repeat = place is None
        if place is not None:
            self._stand(key, place)
        async with contextlib.aclosing(self._streams.hear(key, place)) as events:
            async for event in events:
                is_repeat |= event.kind == "reset"
                await self._take(key, event, run, is_repeat=is_repeat)
        if not run.is_terminal:
            return
        # The stream was asked for from behind the end: whoever still waits for it gets what was read.
        self._tell(key, answer, run, self._watching(key))

    async def _take(self, key: str, event: SentEvent, run: Run, *, is_repeat: bool) -> None:
        match event.kind:
            case "transition":
                told = decode_transition(event.data)
                watching = self._watching(key)
                if told.is_end or (not told.ignored and any(_hears_all(channel) for channel, _ in watching)):
                    answer = await self._get(key, 0, event.id)
                    was_asked_for = is_repeat or told.is_beginning_of(run)
                    as_told = _as_told(decode_run(answer.body), told)
                    self._tell(key, answer, as_told, watching, was_asked_for=was_asked_for)
                self._stand(key, event.id)
            case "progress":
                step = decode_step(event.data)
                for channel, _ in self._watching(key):
                    if _hears_all(channel):
                        channel.tell_progress(step.run_id, step.progress)
            case "reset":
                self._lose_place(key)

    def _tell(self, key: str, answer: Answer, run: Run, watching: Watching, *, was_asked_for: bool = True) -> None:
        if run.is_terminal:
            self._desk.end_wait(run)
        text = answer.body if run.is_terminal else run.to_json()
        for channel, part in watching:
            part.run_ids.pop(key, None)
            part.run_ids[run.run_id] = None
            channel.offer_polled(run, text, part, was_asked_for=was_asked_for)

    async def _get(self, key: str, hold_s: int, after: str | None = None) -> Answer:
        place = after or self._place(key)
        return await self._http.request(
            "GET",
            f"/v1/runs/{key}",
            params=[("after", place)] if place is not None else (),
            headers={"Prefer": f"wait={hold_s}"} if hold_s else {},
            hold_s=hold_s,
        )

    def _place(self, key: str) -> str | None:
        known = self._places.get(key)
        return known or next((part.cursor for _, part in self._watching(key) if part.cursor is not None), None)

    def _stand(self, key: str, place: str) -> None:
        self._places[key] = place
        for channel, part in self._watching(key):
            channel.told_upto(part, place)

    def _lose_place(self, key: str) -> None:
        self._places.pop(key, None)
        for channel, part in self._watching(key):
            part.cursor = None
            channel.look_again()

    def _fail(self, key: str, error: RunstoreError) -> None:
        watching = self._watching(key)
        self._desk.fail_wait(key, error)
        for channel, _ in watching:
            channel.fail(error)


def _hears_all(channel: Channel) -> bool:
    return channel.asked.events == "all"


def _as_told(run: Run, told: Transition) -> Run:
    """Return a run as it stood at a transition, where it has gone on since."""
    if told.is_end or run.status is told.status:
        return run
    return msgspec.structs.replace(
        run,
        status=told.status,
        started_at=run.started_at if told.status is Status.RUNNING else None,
        finished_at=None,
        error_message=None,
        output=None,
        truncated=False,
    )


def _is_whole(key: str) -> bool:
    try:
        parse_run_id(key)
    except RunstoreError:
        return False
    return True
