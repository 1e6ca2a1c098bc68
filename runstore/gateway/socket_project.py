"""A subscription to a project on a websocket: replay from the cursor, then go on live; it never ends by itself."""

from runstore.core.cursor import Place
from runstore.core.errors import Forbidden
from runstore.core.ids import check_project_name
from runstore.gateway.audience import Wish
from runstore.gateway.outbox import Message
from runstore.gateway.socket_connection import Connection
from runstore.gateway.socket_places import ENTRIES_A_READ, resume, since_of
from runstore.gateway.socket_runs import Reach
from runstore.wire.cursor import decode_cursor, encode_cursor
from runstore.wire.messages import (
    ResetMessage,
    ServerMessage,
    Subscribe,
    SubscribedMessage,
    encode_message,
)

_TOO_OLD = "the cursor cannot be served any more: catch up by what has finished since"


class ProjectSubscription:
    """All runs of one project.

    A replay reads the feed at the peer's pace and joins it in the very step in which it has caught up with the tail,
    so that nothing has to be held back.
    """

    __slots__ = ("_at", "_connection", "_is_left", "_message", "_reach", "_wish")

    def __init__(self, connection: Connection, reach: Reach, message: Subscribe) -> None:
        self._connection = connection
        self._reach = reach
        self._message = message
        self._at: dict[int, Place] = {}
        self._is_left = False
        self._wish = Wish.of(message)
        project_name = check_project_name(self._wish.project_name)
        principal = reach.principal
        if principal.run_id is not None or not principal.reaches(project_name):
            raise Forbidden(f"the token may not read the project {project_name!r}")
        if message.cursor is not None:
            decode_cursor(message.cursor)

    @property
    def names(self) -> int:
        """Return 0: it names a project."""
        return 0

    async def begin(self) -> None:
        """Say from where on the project is heard, replay and join.

        Raises: StoreUnavailable.
        """
        tail, message = self._reach.tail, self._message
        if message.cursor is None:
            self._join()
            await self._tell(self._subscribed(tail.cursor_text()))
            return
        life = tail.rollbacks
        resumed = await resume(tail, decode_cursor(message.cursor), range(tail.partitions))
        self._at = resumed.places
        await self._tell(self._subscribed(encode_cursor(resumed.told)))
        if resumed.since is not None:
            await self._tell(ResetMessage(id=message.id, since=resumed.since, detail=_TOO_OLD))
        await self._catch_up(life)

    def leave(self) -> None:
        """Hear nothing more."""
        self._is_left = True
        self._reach.audiences.leave(self._connection, self._wish)

    async def _catch_up(self, life: int) -> None:
        tail = self._reach.tail
        while not self._is_left:
            if life != tail.rollbacks:
                life = tail.rollbacks
                await self._prove()
                continue
            behind = [place for place in self._at.values() if place.n < tail.place(place.partition).n]
            if not behind:
                self._join()
                return
            await self._step(behind[0])

    async def _step(self, place: Place) -> None:
        tail, partition = self._reach.tail, place.partition
        upto = min(place.n + ENTRIES_A_READ, tail.place(partition).n)
        life = tail.rollbacks
        entries = await self._connection.persist(lambda: tail.read(partition, place.n, upto))
        if life != tail.rollbacks:
            return
        if not entries or entries[0].n != place.n + 1:
            await self._skip([place])
            return
        for entry in entries:
            there = tail.place_of(partition, entry)
            spoken = [push for push in tail.pushes(partition, entry, wanted_only=False) if self._wish.covers(push)]
            for push in spoken[:-1]:
                await self._connection.send(self._wish.tell(push, self._cursor()))
            self._at[partition] = there
            if spoken:
                await self._connection.send(self._wish.tell(spoken[-1], self._cursor()))
            if self._is_left:
                return

    async def _prove(self) -> None:
        """Take the places that the store lost while they were replayed for lost."""
        resumed = await self._connection.persist(
            lambda: resume(self._reach.tail, tuple(self._at.values()), range(self._reach.tail.partitions))
        )
        self._at = resumed.places
        if resumed.since is not None:
            await self._tell(ResetMessage(id=self._message.id, since=resumed.since, detail=_TOO_OLD))

    async def _skip(self, places: list[Place]) -> None:
        tail = self._reach.tail
        since = since_of(places, tail.config.rollback_slack_s, beside=tuple(self._at.values()))
        self._at.update({place.partition: tail.place(place.partition) for place in places})
        await self._tell(ResetMessage(id=self._message.id, since=since, detail=_TOO_OLD))

    def _join(self) -> None:
        if not self._is_left:
            self._at = {}
            self._reach.audiences.join(self._connection, self._wish)

    def _cursor(self) -> str:
        return encode_cursor(tuple(self._at.values()))

    def _subscribed(self, cursor: str) -> SubscribedMessage:
        return SubscribedMessage(id=self._message.id, run_ids=(), unknown=(), cursor=cursor)

    async def _tell(self, message: ServerMessage) -> None:
        await self._connection.send(Message(encode_message(message)))
