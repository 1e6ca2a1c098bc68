"""The desk: all that is awaited and watched, and what each message of the gateway means for it. No network here."""

import asyncio
import itertools
import logging
from typing import NamedTuple

import msgspec

from runstore.client.channel import Asked, Channel, OnProgress, Part
from runstore.client.config import ClientConfig
from runstore.client.errors import Problem, UnexpectedAnswer, error_of
from runstore.client.messages import Message, decode_message
from runstore.client.run import Run, decode_run
from runstore.client.waits import Waits
from runstore.core.errors import RateLimited, RunstoreError
from runstore.wire.messages import MAX_SUBSCRIPTIONS

_LOG = logging.getLogger("runstore.client")
_KEPT_FOR_WAITS = 20


class Heard(NamedTuple):
    """What the link has to do after a message: send what has changed, retry later, catch up since a time."""

    changed: bool = False
    put_off: bool = False
    resets: tuple[tuple[Channel, str], ...] = ()


_NOTHING = Heard()
_CHANGED = Heard(changed=True)
_PUT_OFF = Heard(put_off=True)


class Desk:
    """Waits by run and channels by the names of their subscriptions."""

    def __init__(self) -> None:
        names = (str(number) for number in itertools.count(1))
        self._names = names
        self._waits = Waits(names)
        self._futures: dict[str, list[asyncio.Future[Run]]] = {}
        self._channels: dict[Channel, None] = {}
        self._parts: dict[str, tuple[Channel, Part]] = {}
        self._over: list[bytes] = []

    @property
    def busy(self) -> bool:
        """Whether anything is awaited or watched."""
        return bool(self._futures) or any(not channel.over for channel in self._channels)

    def is_awaited(self, run_id: str) -> bool:
        """Whether a run is awaited."""
        return run_id in self._futures

    @property
    def awaited(self) -> list[str]:
        """The runs that are awaited."""
        return list(self._futures)

    @property
    def channels(self) -> list[Channel]:
        """The watches that are not over."""
        return [channel for channel in self._channels if not channel.over]

    def add_wait(self, run_id: str) -> asyncio.Future[Run]:
        """Await a run. Needs: a running loop."""
        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(run_id, []).append(future)
        self._waits.want(run_id)
        return future

    def drop_wait(self, run_id: str, future: asyncio.Future[Run]) -> None:
        """Await a run no longer; nothing happens where it was heard to have ended."""
        futures = self._futures.get(run_id, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[run_id]
                self._waits.drop(run_id)

    def add_channel(
        self, asked: Asked, cursor: str | None, config: ClientConfig, on_progress: OnProgress | None
    ) -> Channel:
        """Watch runs or a project.

        Raises: RateLimited where there are as many subscriptions as one connection carries.
        """
        channel = Channel(asked, self._names, cursor, config, on_progress)
        if len(self._parts) + len(channel.parts) > MAX_SUBSCRIPTIONS - _KEPT_FOR_WAITS:
            raise RateLimited(
                f"a client has at most {MAX_SUBSCRIPTIONS - _KEPT_FOR_WAITS} watches, and one for each 1,000 runs: "
                "close some, or watch several runs or a project at once"
            )
        self._channels[channel] = None
        self._parts.update((part.name, (channel, part)) for part in channel.parts)
        return channel

    def drop_channel(self, channel: Channel) -> bool:
        """Watch no longer; false where it was over already."""
        if channel not in self._channels:
            return False
        del self._channels[channel]
        self._let_go(channel)
        for part in channel.parts:
            del self._parts[part.name]
        if channel.catching_up is not None:
            channel.catching_up.cancel()
        return True

    def _let_go(self, channel: Channel) -> None:
        self._over += channel.let_go()
        for part in channel.parts:
            del self._parts[part.name]
        channel.rename(self._names)
        self._parts.update((part.name, (channel, part)) for part in channel.parts)

    def commands(self) -> list[bytes]:
        """Return what is to be sent now; empty while nothing changes."""
        sent, self._over = self._over, []
        for channel in self._channels:
            sent += channel.commands()
        return sent + self._waits.commands(MAX_SUBSCRIPTIONS - len(self._parts))

    def disconnected(self) -> None:
        """Take note that the connection is gone, and all subscriptions with it."""
        self._over.clear()
        self._waits.disconnected()
        for channel in self._channels:
            channel.disconnected()

    def retry(self) -> None:
        """Ask again for what the gateway could not do at its time."""
        self._waits.retry()
        for _, part in self._parts.values():
            part.put_off = False

    def fail(self, error: RunstoreError) -> None:
        """End everything by an error."""
        for run_id in list(self._futures):
            self.fail_wait(run_id, error)
        for channel in self._channels:
            channel.fail(error)

    def fail_wait(self, run_id: str, error: RunstoreError) -> None:
        """End the waits for a run by an error."""
        self._waits.drop(run_id)
        for future in self._futures.pop(run_id, ()):
            if not future.done():
                future.set_exception(error)

    def end_wait(self, run: Run) -> None:
        """Give a run that has ended to those who await it."""
        self._waits.ended(run.run_id)
        for future in self._futures.pop(run.run_id, ()):
            if not future.done():
                future.set_result(run)

    def hear(self, text: bytes) -> Heard:
        """Take a message of the gateway. One that makes no sense is logged, and hurts nobody."""
        try:
            message = decode_message(text)
            return self._hear(message)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _LOG.warning("message_unreadable", extra={"reason": str(error)[:200]})
            return _NOTHING

    def _hear(self, message: Message) -> Heard:
        name = message.id or ""
        if name in self._parts:
            return self._hear_channel(message, *self._parts[name])
        if not self._waits.has(name):
            # It is of a subscription that was ended meanwhile, and whose runs were asked for again.
            return _NOTHING
        if message.type == "run":
            run = decode_run(message.run)
            if run.is_terminal:
                self.end_wait(run)
            return _CHANGED
        if message.type == "done":
            self._waits.done(name)
        elif message.type == "reset":
            self._waits.renew(name)
        elif message.type == "error":
            return self._refused(name, message)
        else:
            return _NOTHING
        return _CHANGED

    def _refused(self, name: str, message: Message) -> Heard:
        error = _error_of(message)
        _LOG.info("subscription_refused", extra={"code": error.code, "subscription": name})
        if error.retryable:
            self._waits.put_off(name)
            return _PUT_OFF
        run_id = self._waits.refused(name)
        if run_id is not None:
            self.fail_wait(run_id, error)
        return _CHANGED

    def _hear_channel(self, message: Message, channel: Channel, part: Part) -> Heard:
        match message.type:
            case "subscribed":
                channel.stands(part, message.run_ids, message.cursor)
            case "run":
                if not channel.offer(bytes(message.run), part, message.cursor):
                    self._let_go(channel)
                    return _CHANGED
            case "progress" if message.progress is not None:
                channel.tell_progress(message.run_id, message.progress)
            case "done":
                channel.finish(part)
            case "error":
                error = _error_of(message)
                if error.retryable:
                    part.sent, part.put_off = False, True
                    return _PUT_OFF
                channel.fail(error)
            case "reset" if channel.asked.project_name is not None and message.since is not None:
                return Heard(resets=((channel, message.since),))
            case "reset":
                channel.look_again()
        return _NOTHING


def _error_of(message: Message) -> RunstoreError:
    if not message.code:
        return UnexpectedAnswer("the gateway told an error without a code")
    return error_of(Problem(code=message.code, detail=message.detail, candidates=message.candidates))
