"""The event streams, and each partition's epoch."""

from collections.abc import Collection, Sequence
from secrets import token_bytes
from typing import Final

import msgspec

from runstore.adapters.connection import Script, StoreClient, is_forbidden
from runstore.adapters.durability import Durability, Safety
from runstore.adapters.meta import Meta
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId
from runstore.core.ids import RunId

EPOCH_BYTES: Final = 4
_FOUND: Final = Script("""
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch then return epoch end
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('EXISTS', KEYS[2]) == 1 then return '' end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'nonce', '', 'n', '0', 'entry', '0-0')
return ARGV[1]
""")
_KEY_IS_BAD: Final = ("WRONGTYPE", "exhausted the last possible ID")
"""What says that one key takes nothing though the server is well: it is of another type, or its ids are used up."""
_UNTOUCHED: Final = "partition %d was never begun, and this user may not begin it: start `runstore projector`"
_LOST: Final = "partition %d has lost its cursor: a projector will mend it"

LOG_END: Final = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return '0-0' end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then return info[i + 1] end
end
return '0-0'
""")
"""The newest id that a log ever gave out."""
SHARED: Final = (LOG_END,)
"""What those run who may send no scripts."""


def parse_entry_id(text: bytes) -> EntryId:
    """Read a stream id."""
    ms, _, seq = text.partition(b"-")
    return EntryId(int(ms), int(seq or 0))


def _refusal(reply: Exception) -> StoreUnavailable:
    """Return why one partition takes nothing. Raises: StoreUnavailable where it is the server that does not."""
    refusal = StoreUnavailable(f"Redis did not do as asked: {str(reply)[:200]}")
    if not _is_of_key(reply):
        raise refusal from reply
    return refusal


def _is_of_key(error: BaseException | None) -> bool:
    return any(sign in str(error) for sign in _KEY_IS_BAD)


class RedisLog:
    """The event streams over Redis."""

    def __init__(self, client: StoreClient, meta: Meta, safety: Safety) -> None:
        self._client = client
        self._meta = meta
        self.safety = safety

    @property
    def partitions(self) -> int:
        """How many partitions the store has."""
        return self._meta.partitions

    async def append(self, run_id: RunId, event: bytes, *, may_write: frozenset[str] | None = None) -> EntryId:
        """Append an event to its run's partition; when this returns it is as durable as the setting says.

        Raises: StoreUnavailable; the event may then be in the log all the same, and a repeat does no harm.
        """
        stamp = () if may_write is None else ("may_write", msgspec.json.encode(sorted(may_write)))
        command = "XADD", self._meta.keys_of(run_id).events, "*", "event", event, *stamp
        if self.safety.durability is Durability.ACKNOWLEDGED:
            # there is nothing to wait for on the same connection, and a pipeline costs more than the command
            return parse_entry_id(await self._client.execute_command(*command))
        pipe = self._client.pipeline(transaction=False)
        pipe.execute_command(*command)
        self.safety.add_wait(pipe)
        replies = await pipe.execute()
        self.safety.check_wait(replies)
        return parse_entry_id(replies[0])

    async def append_many(self, events: Sequence[tuple[RunId, bytes]]) -> list[EntryId | StoreUnavailable]:
        """Append events in one round trip, in order; an error stands for one whose stream takes nothing.

        Raises: StoreUnavailable where none is known to be there; any may be there all the same.
        """
        if len(events) == 1:
            try:
                return [await self.append(*events[0])]
            except StoreUnavailable as error:
                if not _is_of_key(error.__cause__):
                    raise
                return [error]
        pipe = self._client.pipeline(transaction=False)
        for run_id, event in events:
            pipe.execute_command("XADD", self._meta.keys_of(run_id).events, "*", "event", event)
        self.safety.add_wait(pipe)
        replies = await pipe.execute(raise_on_error=False)
        found = [
            _refusal(reply) if isinstance(reply, Exception) else parse_entry_id(reply)
            for reply in replies[: len(events)]
        ]
        self.safety.check_wait(replies)
        return found

    async def epoch(self, partition: int) -> bytes:
        """Return the partition's epoch, making it where the partition was never touched.

        Raises: StoreUnavailable, also while the projector has yet to mend a partition that lost its cursor.
        """
        epoch = (await self.epochs([partition]))[partition]
        if isinstance(epoch, StoreUnavailable):
            raise epoch
        return epoch

    async def epochs(self, partitions: Collection[int]) -> dict[int, bytes | StoreUnavailable]:
        """Return the epochs of several partitions in one round trip; an error stands for what `epoch` would raise.

        Raises: StoreUnavailable where the server does not answer.
        """
        pipe = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipe.execute_command("HGET", self._meta.keys[partition].cursor, "epoch")
        replies = await pipe.execute(raise_on_error=False) if partitions else []
        found: dict[int, bytes | StoreUnavailable] = {}
        for partition, reply in zip(partitions, replies, strict=True):
            if reply is None:
                found[partition] = await self._begin(partition)
            else:
                found[partition] = _refusal(reply) if isinstance(reply, Exception) else reply
        return found

    async def _begin(self, partition: int) -> bytes | StoreUnavailable:
        """Make a partition's epoch, where it was never touched."""
        keys = self._meta.keys[partition]
        try:
            epoch: bytes = await _FOUND.run(self._client, [keys.cursor, keys.feed], [token_bytes(EPOCH_BYTES)])
        except StoreUnavailable as error:
            if is_forbidden(error):
                return StoreUnavailable(_UNTOUCHED % partition)
            if not _is_of_key(error.__cause__):
                raise
            return error
        return epoch or StoreUnavailable(_LOST % partition)
