"""Those who want the very same of a project: what happens in it is put into words once, and sent to all in one loop."""

from collections.abc import Sequence
from typing import NamedTuple

from runstore.core.times import to_iso
from runstore.feed import FeedTail, Push, Rollback
from runstore.gateway.outbox import Message
from runstore.gateway.socket_connection import Connection, offer_to_all
from runstore.wire.messages import ResetMessage, Subscribe, encode_message, progress_text, run_head


class Wish(NamedTuple):
    """What a subscription to a project wants, and the name that its client gave it."""

    project_name: str
    id: str
    every_change: bool
    output: bool

    @classmethod
    def of(cls, message: Subscribe) -> "Wish":
        """Read it out of a client's message."""
        return cls(message.project_name or "", message.id, message.events == "all", message.output)

    def covers(self, push: Push) -> bool:
        """Whether a change is to be told."""
        if not push.is_transition or push.run.project_name != self.project_name:
            return False
        return self.every_change or push.run.is_terminal

    def tell(self, push: Push, cursor: str) -> Message:
        """Put a change into words."""
        return Message(run_head(self.id, cursor, push.run.traceparent), push.body, output=self.output)


class Audience:
    """The connections with one wish, as the feed's listener."""

    __slots__ = ("_tail", "_wish", "connections")

    def __init__(self, tail: FeedTail, wish: Wish) -> None:
        self._tail = tail
        self._wish = wish
        self.connections: dict[Connection, None] = {}

    def hear(self, pushes: Sequence[Push]) -> None:
        """Offer to all what happened in the project: only the last push has the cursor that says all was told."""
        wish, cursor_text, everybody = self._wish, self._tail.cursor_text, list(self.connections)
        told = [push for push in pushes if wish.covers(push)]
        if told:
            last = told[-1]
            offer_to_all(
                everybody, [wish.tell(push, cursor_text(None, push.place if push is last else None)) for push in told]
            )
        for push in pushes:
            if wish.every_change and push.has_progress:
                offer_to_all(everybody, [Message(progress_text(wish.id, push.run))], key=(wish.id, push.run.run_id))

    def rolled_back(self, rollback: Rollback) -> None:
        """Say that some of what happened cannot be told; the tail goes on from its new places."""
        reset = ResetMessage(id=self._wish.id, since=to_iso(rollback.since_us), detail=rollback.detail)
        offer_to_all(list(self.connections), [Message(encode_message(reset))])


class Audiences:
    """All audiences of a gateway."""

    def __init__(self, tail: FeedTail) -> None:
        self._tail = tail
        self._by_wish: dict[Wish, Audience] = {}

    def __len__(self) -> int:
        return len(self._by_wish)

    def join(self, connection: Connection, wish: Wish) -> None:
        """Let a connection hear what it wishes to, from the next commit on."""
        audience = self._by_wish.get(wish)
        if audience is None:
            audience = self._by_wish[wish] = Audience(self._tail, wish)
            self._tail.hub.join(audience, project_name=wish.project_name)
        audience.connections[connection] = None

    def leave(self, connection: Connection, wish: Wish) -> None:
        """Let it hear that no longer."""
        audience = self._by_wish.get(wish)
        if audience is None or connection not in audience.connections:
            return
        del audience.connections[connection]
        if not audience.connections:
            del self._by_wish[wish]
            self._tail.hub.leave(audience, project_name=wish.project_name)
