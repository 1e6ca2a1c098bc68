"""Long poll, for where websockets are refused: the same waits and watches, served by requests that are held."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from runstore.client.backoff import pause_s
from runstore.client.catchup import read_since
from runstore.client.channel import Channel, Part
from runstore.client.desk import Desk
from runstore.client.http import Answer, Http
from runstore.client.run import decode_run
from runstore.core.errors import CursorLost, RunNotFound, RunstoreError
from runstore.core.ids import parse_run_id

_LOG = logging.getLogger("runstore.client")
_AT_ONCE: Final = 48
"""Requests held at one time; with more runs than that, nothing is held and the runs take turns."""
_HOLD_S: Final = 20
_TURN_S: Final = 0.1
_LEAST_S: Final = 0.5
_UNKNOWN_S: Final = 0.5
_PROJECT_S: Final = 1.0
_OVERLAP: Final = timedelta(seconds=5)
_AWAY: Final = timedelta(seconds=30)


class Poller:
    """Serves a desk by long poll for as long as it is told to."""

    def __init__(self, http: Http, desk: Desk) -> None:
        self._http = http
        self._desk = desk
        self._turns: deque[str] = deque()
        self._known: set[str] = set()
        self._turn = asyncio.Condition()

    async def run(self, for_s: float, dirty: asyncio.Event) -> None:
        """Serve the desk until the time is over, or nothing is awaited and watched any more.

        Needs: `dirty` is set whenever something is added to the desk.
        """
        self._turns.clear()
        self._known.clear()
        projects: dict[Channel, asyncio.Task[None]] = {}
        loop = asyncio.get_running_loop()
        workers = [loop.create_task(self._work(dirty)) for _ in range(_AT_ONCE)]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(for_s):
                    while self._desk.busy:
                        dirty.clear()
                        for channel in self._desk.channels:
                            if channel.asked.run_ids:
                                # A run's end stays to be seen, so that nothing can be missed from here on.
                                channel.subscribed.set()
                            if channel.asked.project_name is not None and channel not in projects:
                                projects[channel] = loop.create_task(self._follow(channel, dirty))
                        await self._add_turns()
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

    def _wanted(self) -> Iterator[str]:
        yield from self._desk.awaited
        for _, part in self._parts():
            yield from part.run_ids

    def _parts(self) -> Iterator[tuple[Channel, Part]]:
        for channel in self._desk.channels:
            for part in channel.parts:
                yield channel, part

    async def _work(self, dirty: asyncio.Event) -> None:
        attempt = 0
        while True:
            async with self._turn:
                await self._turn.wait_for(lambda: self._turns)
            key = self._turns.popleft()
            watching = [(channel, part) for channel, part in self._parts() if key in part.run_ids]
            pause = 0.0
            if not watching and not self._desk.is_awaited(key):
                self._known.discard(key)
                continue
            try:
                pause = await self._look(key, watching)
                attempt = 0
            except RunstoreError as error:
                pause, attempt = pause_s(self._http.config, attempt), attempt + 1
                if not error.retryable:
                    self._fail(key, watching, error)
            except msgspec.MsgspecError:
                _LOG.exception("run_unreadable")
                pause, attempt = pause_s(self._http.config, attempt), attempt + 1
            if not self._desk.busy:
                dirty.set()
            await asyncio.sleep(pause)
            self._turns.append(key)

    async def _look(self, key: str, watching: list[tuple[Channel, Part]]) -> float:
        """Ask for a run once, tell whoever waits for it, and return the seconds until it is asked for again."""
        crowded = len(self._known) > _AT_ONCE
        hold_s = 0 if crowded else 1 if any(channel.asked.events == "all" for channel, _ in watching) else _HOLD_S
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        try:
            answer = await self._get(key, hold_s, _newest(watching))
        except RunNotFound:
            if not _is_whole(key):
                raise
            return _UNKNOWN_S
        except CursorLost:
            for channel, part in watching:
                part.cursor = None
                channel.look_again()
            return 0.0
        run = decode_run(answer.body)
        if run.is_terminal:
            self._desk.end_wait(run)
        for channel, part in watching:
            part.run_ids.pop(key, None)
            part.run_ids[run.run_id] = None
            channel.offer_polled(run, answer.body, part)
        if key != run.run_id:
            await self._add_turns()
        took_s = clock() - asked_at
        # A proxy that drops `Prefer` must not be asked without end.
        return _TURN_S if crowded else max(0.0, _LEAST_S - took_s)

    async def _get(self, key: str, hold_s: int, after: str | None) -> Answer:
        return await self._http.request(
            "GET",
            f"/v1/runs/{key}",
            params=[("after", after)] if after is not None else (),
            headers={"Prefer": f"wait={hold_s}"} if hold_s else {},
            hold_s=hold_s,
        )

    def _fail(self, key: str, watching: list[tuple[Channel, Part]], error: RunstoreError) -> None:
        self._desk.fail_wait(key, error)
        for channel, _ in watching:
            channel.fail(error)

    async def _follow(self, channel: Channel, dirty: asyncio.Event) -> None:
        """Follow a project by what its listing says has finished since the last look."""
        since: datetime | None = None
        attempt = 0
        while not channel.over:
            try:
                params = [("project_name", channel.asked.project_name or ""), ("limit", "1")]
                now = _told_at(await self._http.request("GET", "/v1/runs", params=params))
                since = since or now - (_AWAY if channel.was_subscribed else timedelta(seconds=1))
                await read_since(self._http, channel, since.isoformat())
                channel.stands(channel.parts[0], (), None)
                since, attempt, pause = now - _OVERLAP, 0, _PROJECT_S
            except RunstoreError as error:
                if not error.retryable:
                    channel.fail(error)
                    dirty.set()
                attempt, pause = attempt + 1, pause_s(self._http.config, attempt)
            except msgspec.MsgspecError:
                _LOG.exception("listing_unreadable")
                attempt, pause = attempt + 1, pause_s(self._http.config, attempt)
            await asyncio.sleep(pause)


def _newest(watching: list[tuple[Channel, Part]]) -> str | None:
    return next((part.cursor for _, part in watching if part.cursor is not None), None)


def _is_whole(key: str) -> bool:
    try:
        parse_run_id(key)
    except RunstoreError:
        return False
    return True


def _told_at(answer: Answer) -> datetime:
    """Return the gateway's own time, so that a client whose clock is wrong misses nothing."""
    try:
        told = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return datetime.now(UTC)
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
