"""One partition as its projector needs it: where the cursor stands, the records of runs, what may be trimmed."""

from secrets import token_bytes
from typing import Any, Final

import msgspec

from runstore.adapters.connection import Script, StoreClient
from runstore.adapters.feed import START
from runstore.adapters.log import EPOCH_BYTES, LOG_END, RedisLog, parse_entry_id
from runstore.adapters.outputs import part_keys
from runstore.adapters.records import CorruptRecord, read_record
from runstore.core.cursor import NONCE_BYTES
from runstore.core.errors import StoreUnavailable
from runstore.core.event import EntryId, OutputRef
from runstore.core.ids import RunId, to_bytes
from runstore.wire.feed import FeedEntry, decode_feed, encode_feed
from runstore.wire.keys import PartitionKeys
from runstore.wire.record import PROJECTED, Record

_MEND: Final = Script("""
local nonce = redis.call('HGET', KEYS[1], 'nonce')
if (nonce and 'is:' .. nonce or 'none') ~= ARGV[1] then return 0 end
local told = redis.pcall('XADD', KEYS[2], ARGV[4] .. '-0', 'c', ARGV[6])
local said = type(told) == 'table' and told.err or ''
if string.find(said, 'equal or smaller', 1, true) or string.find(said, 'exhausted', 1, true) then
  redis.call('DEL', KEYS[2])
  told = redis.pcall('XADD', KEYS[2], ARGV[4] .. '-0', 'c', ARGV[6])
end
if type(told) == 'table' and told.err then return redis.error_reply(told.err) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'nonce', ARGV[3], 'n', ARGV[4], 'entry', ARGV[5])
return 1
""")
_CLEAR: Final = Script("""
local torn = false
for _, value in ipairs(redis.call('HMGET', KEYS[1], 'epoch', 'nonce', 'n', 'entry')) do torn = torn or not value end
if torn and redis.call('EXISTS', KEYS[2]) == 0 then redis.call('DEL', KEYS[1]) end
return 1
""")
_TRIM_EVENTS: Final = Script("""
local entry = redis.call('HGET', KEYS[1], 'entry')
if not entry or redis.call('XLEN', KEYS[2]) <= tonumber(ARGV[1]) then return 0 end
local bytes = 0
for ahead = 1, 17 do
  local row = redis.call('XRANGE', KEYS[2], '(' .. entry, '+', 'COUNT', 1)[1]
  if not row then break end
  for _, part in ipairs(row[2]) do bytes = bytes + #part end
  if ahead > 16 or bytes > 1048576 then return 0 end
  entry = row[1]
end
return redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', tonumber(ARGV[1]) + 16)
""")
_SEE: Final = Script("""
local most, found = tonumber(ARGV[1]), {}
for i, key in ipairs(KEYS) do
  if i <= most then
    local told = redis.pcall('HGET', key, ARGV[2])
    if type(told) == 'table' then
      found[i] = told.err
    else
      found[i] = told and redis.call('HMGET', key, unpack(ARGV, 2))
    end
  else
    found[i] = redis.call('EXISTS', key)
  end
end
return found
""")
_KEYS_AT_ONCE: Final = 2000
_MOST_NUMBER: Final = 2**53
"""Feed numbers beyond this were made by hand: no partition has so many commits."""

_LEAST_FEED_STEP: Final = 100


class Standing(msgspec.Struct, kw_only=True):
    """Where a partition stands: its cursor, and the counts that its commits carry on."""

    epoch: bytes
    nonce: bytes
    n: int
    entry: EntryId
    counts: dict[str, int]
    stats: dict[str, int]
    has_archived: bool = False
    """Whether runs of it have left for the archive: each that leaves changes the cursor, so this is never old."""

    is_marked: bool = False
    """Whether its newest commit is told only once the safe mark has passed it."""


async def load_standing(client: StoreClient, keys: PartitionKeys, log: RedisLog, *, now_ms: int) -> Standing:
    """Read where a partition stands.

    A partition whose cursor is gone, or does not agree with its feed, was rolled back or replaced by somebody: it gets
    a new epoch, so that every place in it that was ever given out is seen to be lost, and goes on from the later of
    the two. One whose cursor stands in the future, and whose log gives out older ids, is folded from the log's
    beginning. `now_ms` is anybody's clock: it only says when that is worth a look.

    Raises: StoreUnavailable.
    """
    for _ in range(5):
        pipe = client.pipeline(transaction=True)
        pipe.execute_command("HMGET", keys.cursor, "epoch", "nonce", "n", "entry")
        pipe.execute_command("XREVRANGE", keys.feed, "+", "-", "COUNT", 1)
        pipe.execute_command("HGETALL", keys.projects)
        pipe.execute_command("HGETALL", keys.stats)
        pipe.execute_command("EXISTS", keys.archived)
        replies = await pipe.execute(raise_on_error=False)
        for reply in replies[:3]:
            if isinstance(reply, Exception):
                raise StoreUnavailable(f"partition {keys.partition} cannot be read: {reply}") from reply
        (epoch, nonce, n, entry), rows, counts, stats, has_archived = replies
        last = _last(rows)
        if None in (epoch, nonce, n, entry) and not rows:
            await _CLEAR.run(client, [keys.cursor, keys.feed], [])
            await log.epoch(keys.partition)
            continue
        at = parse_entry_id(entry) if entry is not None else START
        if None in (epoch, nonce, n, entry) or not _agree(int(n), nonce, rows, last):
            folded = max(at, EntryId(*last.entry) if last is not None else START)
            least_n = max(_int(n), _number(rows))
            await _mend(client, keys, nonce=nonce, least_n=least_n, folded=folded, is_marked=log.safety.has_mark)
        elif at.ms > now_ms and await _was_set_back(client, keys, at):
            await _mend(client, keys, nonce=nonce, least_n=int(n), folded=START, is_marked=log.safety.has_mark)
        else:
            return Standing(
                epoch=epoch,
                nonce=nonce,
                n=int(n),
                entry=at,
                counts=_counts(counts),
                stats=_counts(stats) if not isinstance(stats, Exception) else {},
                has_archived=has_archived == 1,
                is_marked=last is not None and last.is_marked,
            )
    raise StoreUnavailable(f"partition {keys.partition} changes while it is loaded: try again")


async def renew_if_behind(client: StoreClient, keys: PartitionKeys, *, epoch: bytes, n: int, is_marked: bool) -> None:
    """Give a partition a new epoch where it stands before a commit `n` that it once had: it was rolled back.

    Raises: StoreUnavailable.
    """
    found = await client.execute_command("HMGET", keys.cursor, "epoch", "nonce", "n", "entry")
    if None not in found and found[0] == epoch and _int(found[2]) < n:
        folded = parse_entry_id(found[3])
        await _mend(client, keys, nonce=found[1], least_n=_int(found[2]), folded=folded, is_marked=is_marked)


async def _was_set_back(client: StoreClient, keys: PartitionKeys, at: EntryId) -> bool:
    """Whether a log gives out ids from before the cursor: somebody emptied it to be rid of an id from the future."""
    return parse_entry_id(await LOG_END.run(client, [keys.events], [])) < at


def _last(rows: list[Any]) -> FeedEntry | None:
    try:
        return decode_feed(rows[0][1][b"c"]) if rows else None
    except (msgspec.MsgspecError, KeyError):
        return None


def _agree(n: int, nonce: bytes, rows: list[Any], last: FeedEntry | None) -> bool:
    if not rows:
        return n == 0
    return last is not None and last.n == n and last.nonce == nonce


async def _mend(
    client: StoreClient, keys: PartitionKeys, *, nonce: bytes | None, least_n: int, folded: EntryId, is_marked: bool
) -> None:
    """Give a partition whose cursor has the nonce a new epoch, in which the log is folded up to an entry."""
    next_n, new_nonce = least_n + 1, token_bytes(NONCE_BYTES)
    told = encode_feed(FeedEntry(n=next_n, nonce=new_nonce, entry=folded, changes=(), is_marked=is_marked))
    seen = b"is:" + nonce if nonce is not None else b"none"
    args: list[bytes | str | int] = [seen, token_bytes(EPOCH_BYTES), new_nonce, next_n, str(folded), told]
    await _MEND.run(client, [keys.cursor, keys.feed], args)


def _number(rows: list[Any]) -> int:
    n = parse_entry_id(rows[0][0]).ms if rows else 0
    return n if n < _MOST_NUMBER else 0


def _counts(fields: dict[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): _int(value) for name, value in fields.items()}


def _int(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0


class Seen(msgspec.Struct, kw_only=True):
    """What was looked up for a batch: records, runs whose key holds no record, outputs that are gone.

    With `is_guess` nothing was: the runs that have no record here are taken for new.
    """

    records: dict[RunId, Record | None]
    corrupt: dict[RunId, str] = msgspec.field(default_factory=dict)
    gone: set[tuple[RunId, bytes]] = msgspec.field(default_factory=set)
    is_guess: bool = False


async def see(
    client: StoreClient, keys: PartitionKeys, run_ids: list[RunId], refs: list[tuple[RunId, OutputRef]]
) -> Seen:
    """Look up records, and whether outputs that were told of are still there. Raises: StoreUnavailable."""
    seen = Seen(records={})
    if not run_ids and not refs:
        return seen
    runs = [keys.run(to_bytes(run_id)) for run_id in run_ids]
    parts = [part_keys(keys, to_bytes(run_id), ref) for run_id, ref in refs]
    replies = await _see(client, runs, [key for part in parts for key in part])
    for run_id, reply in zip(run_ids, replies, strict=False):
        if reply is None:
            seen.records[run_id] = None
            continue
        try:
            seen.records[run_id] = read_record(run_id, reply)
        except CorruptRecord as error:
            seen.corrupt[run_id] = error.detail
    exist = iter(replies[len(runs) :])
    for (run_id, ref), part in zip(refs, parts, strict=True):
        if sum(next(exist) for _ in part) < len(part):
            seen.gone.add((run_id, ref.token))
    return seen


async def _see(client: StoreClient, runs: list[bytes], others: list[bytes]) -> list[Any]:
    """Read the records of runs (None: there is none) and whether other keys exist, by one command for many keys."""
    replies: list[Any] = []
    for begin in range(0, len(runs), _KEYS_AT_ONCE):
        part = runs[begin : begin + _KEYS_AT_ONCE]
        replies += await _SEE.run(client, part, [len(part), *PROJECTED])
    for begin in range(0, len(others), _KEYS_AT_ONCE):
        replies += await _SEE.run(client, others[begin : begin + _KEYS_AT_ONCE], [0])
    return replies


async def trim(
    client: StoreClient, keys: PartitionKeys, *, log_retention: int, feed_retention: int, feed_retention_ms: int
) -> None:
    """Trim the events behind the committed cursor and the feed past the resume window. Raises: StoreUnavailable.

    The newest `log_retention` events and `feed_retention` feed entries stay, feed entries of the last
    `feed_retention_ms` too. Nothing is trimmed while the projector is more than a few events behind.
    """
    await _TRIM_EVENTS.run(client, [keys.cursor, keys.events], [log_retention])
    n, entry = await client.execute_command("HMGET", keys.cursor, "n", "entry")
    rows = await client.execute_command("XRANGE", keys.feed, "-", "+", "COUNT", 1)
    if n is None or entry is None or not rows:
        return
    young_ms = parse_entry_id(entry).ms - feed_retention_ms
    keep_from = parse_entry_id(rows[0][0]).ms
    step = max(_LEAST_FEED_STEP, feed_retention // 10)
    while (upto := keep_from + step) <= int(n) - feed_retention:
        rows = await client.execute_command("XRANGE", keys.feed, b"%d-0" % upto, b"%d-0" % upto)
        reached = _last(rows)
        if reached is None or reached.entry[0] > young_ms:
            break
        keep_from = upto
        await client.execute_command("XTRIM", keys.feed, "MINID", "~", b"%d-0" % keep_from)
