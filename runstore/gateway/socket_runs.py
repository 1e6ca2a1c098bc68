"""A subscription to runs on a websocket: join, look, speak once."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from runstore.core.cursor import Cursor, Place
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, parse_prefix, parse_run_id
from runstore.core.principal import Principal
from runstore.core.run import Run
from runstore.core.subscription import WHOLE_COMMIT, Change, Subscription, Version
from runstore.core.times import to_iso
from runstore.feed import Body, FeedTail, Looked, Push, Rollback
from runstore.gateway.audience import Audiences
from runstore.gateway.context import Services
from runstore.gateway.outbox import Message
from runstore.gateway.socket_connection import Connection
from runstore.gateway.socket_places import Resumption, replay, resume, since_of
from runstore.lookup import Lookup
from runstore.resolve import Resolver
from runstore.wire.cursor import decode_cursor, encode_cursor
from runstore.wire.messages import (
    ResetMessage,
    Subscribe,
    SubscribedMessage,
    done_text,
    encode_message,
    progress_text,
    run_head,
    unique,
)

_PREFIXES_AT_ONCE: Final = 8
_DIGITS: Final = 32


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What the subscriptions of one caller stand on."""

    tail: FeedTail
    lookup: Lookup
    resolver: Resolver
    audiences: Audiences
    principal: Principal

    @classmethod
    def of(cls, services: Services, principal: Principal) -> "Reach":
        """Make the reach of a caller of a gateway."""
        return cls(
            tail=services.tail,
            lookup=services.lookup,
            resolver=services.resolver,
            audiences=services.audiences,
            principal=principal,
        )


class RunsSubscription:
    """Some runs, by id; over when each has been spoken of as ended."""

    __slots__ = (
        "_asked",
        "_connection",
        "_cursor",
        "_every_change",
        "_id",
        "_is_left",
        "_is_looking",
        "_is_over",
        "_joined",
        "_life",
        "_output",
        "_partitions",
        "_reach",
        "_rollback",
        "_speech",
        "_told",
        "names",
    )

    def __init__(self, connection: Connection, reach: Reach, message: Subscribe) -> None:
        self._connection = connection
        self._reach = reach
        # what is not needed any more once it has begun is let go then: many are open for long
        self._told: tuple[str, ...] = message.run_ids or ()
        self.names = len(self._told)
        """How many runs it names."""

        self._id = message.id
        self._output = message.output
        self._every_change = message.events == "all"
        self._asked: Cursor | None = decode_cursor(message.cursor) if message.cursor is not None else None
        self._speech: Subscription[Push | Body] | None = None
        self._joined: tuple[RunId, ...] = ()
        self._partitions: tuple[int, ...] = ()
        self._cursor = ""
        self._life = 0
        self._is_looking = True
        self._is_left = False
        self._is_over = False
        self._rollback: Rollback | None = None

    async def begin(self) -> None:
        """Resolve the ids, join the feed, look the runs up and speak.

        Raises: InvalidRunId, RunNotFound, AmbiguousRunId, StoreUnavailable.
        """
        run_ids = unique(await self._resolve(self._told))
        if self._is_left:
            return
        tail = self._reach.tail
        self._told = ()
        self._joined = tuple(RunId(run_id) for run_id in run_ids)
        self._partitions = tuple(sorted({tail.partition_of(RunId(run_id)) for run_id in run_ids}))
        tail.hub.join(self, run_ids=self._joined)
        while not self._is_left:
            life = self._life
            speech: Subscription[Push | Body] = Subscription(self._joined, every_change=self._every_change)
            self._speech = speech
            here = tail.cursor_text(self._partitions)
            try:
                resumed, replayed = await self._resume()
                seen = await self._look(run_ids)
            except StoreUnavailable:
                if life == self._life:
                    raise
                continue
            if life != self._life or self._is_left:
                continue
            unknown = tuple(run_id for run_id, looked in seen.items() if looked is None)
            self._cursor = here if self._asked is None else encode_cursor(resumed.told)
            told = SubscribedMessage(id=self._id, run_ids=run_ids, unknown=unknown, cursor=self._cursor)
            messages = [Message(encode_message(told))]
            if resumed.since is not None:
                messages.append(self._reset(resumed.since, "the cursor cannot be served any more: read what is new"))
            await self._send(messages + self._messages(self._speak(seen, replayed)))
            return

    def leave(self) -> None:
        """Hear nothing more."""
        self._is_left = True
        self._reach.tail.hub.leave(self, run_ids=self._joined)

    def hear(self, pushes: Sequence[Push]) -> None:
        """Take changes from the feed, and offer what is to be spoken of them."""
        assert self._speech is not None
        may_see = self._reach.principal.may_see
        spoken: list[Change[Push | Body]] = []
        progress: list[Push] = []
        for push in pushes:
            run = push.run
            if not may_see(run.project_name, run.run_id):
                continue
            if push.is_transition:
                spoken += self._speech.hear(self._change(push))
            if push.has_progress and self._every_change and not self._is_looking:
                progress.append(push)
        if spoken:
            self._connection.offer_all(self._messages(spoken, pushes[-1].place))
        for push in progress:
            _offer_progress(self._connection, self._id, push)

    def rolled_back(self, rollback: Rollback) -> None:
        """Hold everything back until the open runs were looked up again."""
        if not rollback.partitions.intersection(self._partitions):
            return
        self._life += 1
        if self._is_looking and self._rollback is None:
            return  # not begun yet: `begin` sees the new life
        first = self._rollback
        self._rollback = rollback if first is None or rollback.since_us < first.since_us else first
        self._forget()
        if first is None:
            self._connection.do(self._look_again)

    def _forget(self) -> None:
        assert self._speech is not None
        self._is_looking = True
        for run_id in self._speech.open_runs:
            self._speech.forget(run_id)

    async def _look_again(self) -> None:
        while not self._is_left and (rollback := self._rollback) is not None:
            life = self._life
            assert self._speech is not None
            self._cursor = self._reach.tail.cursor_text(self._partitions)
            await self._send([self._reset(to_iso(rollback.since_us), rollback.detail)])
            run_ids = tuple(self._speech.open_runs)
            seen = await self._connection.persist(partial(self._look, run_ids))
            if life == self._life:
                self._rollback = None
                await self._send(self._messages(self._speak(seen)))

    async def _resume(self) -> tuple[Resumption, list[Push]]:
        tail = self._reach.tail
        resumed = await resume(tail, self._asked or (), self._partitions)
        if self._asked is None or not self._every_change:
            return resumed, []
        replayed, cut = await replay(tail, resumed.places, frozenset(self._joined))
        if cut and resumed.since is None:
            since = since_of((resumed.places[partition] for partition in cut), tail.config.rollback_slack_s)
            resumed = msgspec.structs.replace(resumed, since=since)
        return resumed, replayed

    async def _resolve(self, texts: Sequence[str]) -> list[str]:
        room = asyncio.Semaphore(_PREFIXES_AT_ONCE)

        async def resolve_prefix(text: str) -> str:
            async with room:
                return await self._reach.resolver.resolve(self._reach.principal, text)

        whole = {text: _whole(text) for text in texts}
        prefixes = [text for text, run_id in whole.items() if run_id is None]
        found = dict(zip(prefixes, await asyncio.gather(*map(resolve_prefix, prefixes)), strict=True))
        return [whole[text] or found[text] for text in texts]

    async def _look(self, run_ids: Sequence[str]) -> dict[RunId, Looked | None]:
        """Look runs up, no further than the feed has told: what is not told yet could still be taken back."""
        ids = [RunId(run_id) for run_id in run_ids]
        seen = dict(zip(ids, await asyncio.gather(*map(self._see, ids)), strict=True))
        newest: dict[int, int] = {}
        for run_id, looked in seen.items():
            if looked is not None:
                partition = self._reach.tail.partition_of(run_id)
                newest[partition] = max(newest.get(partition, 0), looked.record.version)
        life = self._life
        for partition, version in newest.items():
            if life != self._life:
                break
            await self._reach.tail.told(partition, version)
        return seen

    async def _see(self, run_id: RunId) -> Looked | None:
        tail, lookup, principal = self._reach.tail, self._reach.lookup, self._reach.principal
        if self._may_have_heard_more(tail.partition_of(run_id)):
            record = await lookup.record_for(principal, run_id)
            return Looked(record, tail.bodies.make(record.run)) if record is not None else None
        was_shared = tail.looked.shares(run_id) or lookup.kept(run_id) is not None
        looked = await tail.looked.see(run_id, lookup.record)
        if looked is not None and principal.may_see(looked.record.run.project_name, run_id):
            return looked
        if was_shared and not principal.sees_all:
            await lookup.fresh(run_id)  # what is out of reach costs the same whether it exists, or others look at it
        return None

    def _may_have_heard_more(self, partition: int) -> bool:
        """Whether the client may have heard every change, some of which the feed has not told here yet."""
        if not self._every_change:
            return False  # an end that the feed is still to tell is told then, and nothing comes after it
        here = self._reach.tail.place(partition)
        return not any(
            place.partition == partition and place.entry is None and place.n <= here.n for place in self._asked or ()
        )

    def _speak(self, seen: dict[RunId, Looked | None], replayed: Sequence[Push] = ()) -> list[Change[Push | Body]]:
        assert self._speech is not None
        spoken: list[Change[Push | Body]] = []
        said: dict[RunId, Run] = {}
        for push in replayed:
            if push.is_transition and self._may_see(push.run):
                spoken += self._speech.replay(self._change(push))
                said[push.run.run_id] = push.run
        for run_id, looked in seen.items():
            snapshot: Change[Push | Body] | None = None
            if looked is not None and not _is_said(looked.record.run, said.get(run_id)):
                version = Version(looked.record.version, WHOLE_COMMIT)
                snapshot = Change(run_id, version, looked.record.run.is_terminal, looked.body)
            spoken += self._speech.look(run_id, snapshot)
        self._is_looking = False
        return spoken

    async def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if self._is_left and not self._is_over:
                return
            await self._connection.send(message)

    def _messages(self, spoken: list[Change[Push | Body]], latest: Place | None = None) -> list[Message]:
        """Make the messages of one step: only its last push has the cursor that says all of the step was told."""
        assert self._speech is not None
        messages: list[Message] = []
        for number, change in enumerate(spoken, 1):
            if number == len(spoken):
                self._cursor = self._reach.tail.cursor_text(self._partitions, latest)
            body = change.payload.body if isinstance(change.payload, Push) else change.payload
            head = run_head(self._id, self._cursor, body.run.traceparent)
            messages.append(Message(head, body, output=self._output))
        if self._speech.done and not self._is_left:
            messages.append(Message(done_text(self._id)))
            self._is_over = True
            self._connection.end(self._id, self)
        return messages

    def _reset(self, since: str, detail: str) -> Message:
        return Message(encode_message(ResetMessage(id=self._id, since=since, detail=detail)))

    def _may_see(self, run: Run) -> bool:
        return self._reach.principal.may_see(run.project_name, run.run_id)

    def _change(self, push: Push) -> Change[Push | Body]:
        return Change(push.run.run_id, push.version, push.run.is_terminal, push)


def _whole(text: str) -> str | None:
    """Return a full id in its canonical form; None for a prefix.

    Raises: InvalidRunId.
    """
    return parse_run_id(text) if len(parse_prefix(text)) == _DIGITS else None


def _is_said(run: Run, said: Run | None) -> bool:
    return said is not None and (said.status, said.attempt) == (run.status, run.attempt)


def _offer_progress(connection: Connection, subscription_id: str, push: Push) -> None:
    """Offer how far a run is, in place of what was not sent of that yet."""
    connection.offer(Message(progress_text(subscription_id, push.run)), key=(subscription_id, push.run.run_id))
