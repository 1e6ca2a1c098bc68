"""Set logs back that hold an id from the future: what such ids carry is put in again, as of now.

A stream gives out no id before its last one, and takes none back: XDEL remembers what it deleted, and XSETID refuses.
So one entry that was added with an id of its own dates every later event of its partition, and the largest id stops it
for good. Here the stream is written anew, in one step: first what is of now or before, then the rest under new ids.
What was folded already and comes again changes nothing. The partition gets a new epoch, for its places are no more.
"""

from secrets import token_bytes
from typing import Final

from runstore.adapters.connection import Script
from runstore.adapters.feed import START
from runstore.adapters.log import EPOCH_BYTES, LOG_END, parse_entry_id
from runstore.adapters.partition import load_standing
from runstore.adapters.store import RedisStore
from runstore.core.cursor import NONCE_BYTES
from runstore.core.errors import StoreUnavailable
from runstore.wire.feed import FeedEntry, encode_feed

FUTURE_MS: Final = 3_600_000
"""An id that lies further ahead of the store's clock was made by hand."""

_ATTEMPTS: Final = 5
_SET_BACK: Final = Script("""
if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return -1 end
local limit, moved = ARGV[6], 0
local function copy(first, last, keeps_ids)
  while true do
    local rows = redis.call('XRANGE', KEYS[3], first, last, 'COUNT', 16)
    if #rows == 0 then return end
    for _, row in ipairs(rows) do
      redis.call('XADD', KEYS[4], keeps_ids and row[1] or '*', unpack(row[2]))
      if not keeps_ids then moved = moved + 1 end
    end
    local ms, seq = string.match(rows[#rows][1], '^(%d+)-(%d+)$')
    if ms == '18446744073709551615' and seq == ms then return end
    first = '(' .. rows[#rows][1]
  end
end
redis.call('DEL', KEYS[4])
copy('-', limit, true)
copy('(' .. limit .. '-18446744073709551615', '+', false)
local told = redis.pcall('XADD', KEYS[2], ARGV[4] .. '-0', 'c', ARGV[7])
if type(told) == 'table' and told.err then
  redis.call('DEL', KEYS[4])
  return redis.error_reply(told.err)
end
redis.call('DEL', KEYS[3])
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[3]) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'nonce', ARGV[3], 'n', ARGV[4], 'entry', ARGV[5])
return moved
""")


async def set_back(store: RedisStore) -> dict[int, int]:
    """Set back every log that is in the future, and return how many of its entries got new ids, by partition.

    Raises: StoreUnavailable.
    """
    seconds, _ = await store.client.execute_command("TIME")
    limit_ms = int(seconds) * 1000 + FUTURE_MS
    moved: dict[int, int] = {}
    for keys in store.meta.keys:
        if parse_entry_id(await LOG_END.run(store.client, [keys.events], [])).ms > limit_ms:
            moved[keys.partition] = await _set_back(store, keys.partition, limit_ms)
    return moved


async def _set_back(store: RedisStore, partition: int, limit_ms: int) -> int:
    client, keys = store.client, store.meta.keys[partition]
    for _ in range(_ATTEMPTS):
        standing = await load_standing(client, keys, store.log, now_ms=limit_ms)
        folded = standing.entry
        if folded.ms > limit_ms:
            # no id up to the limit can be given out any more, so this one stays the last
            rows = await client.execute_command("XREVRANGE", keys.events, limit_ms, "-", "COUNT", 1)
            folded = parse_entry_id(rows[0][0]) if rows else START
        nonce, n = token_bytes(NONCE_BYTES), standing.n + 1
        told = encode_feed(FeedEntry(n=n, nonce=nonce, entry=folded, changes=(), is_marked=store.safety.has_mark))
        args: list[bytes | str | int] = [
            standing.nonce,
            token_bytes(EPOCH_BYTES),
            nonce,
            n,
            str(folded),
            limit_ms,
            told,
        ]
        moved = await _SET_BACK.run(client, [keys.cursor, keys.feed, keys.events, keys.spare], args)
        if moved >= 0:
            return int(moved)
    raise StoreUnavailable(f"partition {partition} changes while it is set back: try again")
