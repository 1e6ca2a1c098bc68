"""Run numbers: reserved before the commit, one run one number, fenced by the partition's last commit.

Reserving again gives the same number, so a crash repeats nothing. A projector that slept through commits of others is
refused by the fence, so it burns none.
"""

from collections.abc import Sequence
from typing import Final

from runstore.adapters.connection import Script, StoreClient
from runstore.core.errors import StoreUnavailable
from runstore.core.ids import RunId, from_bytes, to_bytes
from runstore.wire.keys import numbers as numbers_key

_RESERVE: Final = Script("""
local kind = redis.call('TYPE', KEYS[1])
if type(kind) == 'table' then kind = kind.ok end
if kind ~= 'hash' and kind ~= 'none' then return 'uncountable' end
local function counts(text) return not text or (string.match(text, '^%d+$') and #text < 16) end
if not counts(redis.call('HGET', KEYS[1], 'last')) then return 'uncountable' end
for i = 5, #ARGV do
  if not counts(redis.call('HGET', KEYS[1], 'r:' .. ARGV[i])) then return 'uncountable' end
end
local fence = redis.call('HGET', KEYS[1], ARGV[1])
if fence then
  local epoch, n = string.match(fence, '^(%x+):(%d+)$')
  if epoch == ARGV[2] then
    if tonumber(n) > tonumber(ARGV[3]) then return {} end
  elseif ARGV[4] == '0' then
    return {}
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
local numbers = {}
for i = 5, #ARGV do
  local field = 'r:' .. ARGV[i]
  local number = redis.call('HGET', KEYS[1], field)
  if not number then
    number = redis.call('HINCRBY', KEYS[1], 'last', 1)
    redis.call('HSET', KEYS[1], field, number)
  end
  numbers[#numbers + 1] = tostring(number)
end
return numbers
""")
_FORGET: Final = Script("""
local fence = redis.call('HGET', KEYS[1], ARGV[1])
local epoch, n = string.match(fence or '', '^(%x+):(%d+)$')
if epoch ~= ARGV[2] or tonumber(n) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. ARGV[3])
end
for i = 4, #ARGV do redis.call('HDEL', KEYS[1], 'r:' .. ARGV[i]) end
return 1
""")

_RAISE: Final = Script("""
local last = redis.call('HGET', KEYS[1], 'last')
if not last or (tonumber(last) or 0) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'last', ARGV[1]) end
return 1
""")


class Uncountable(StoreUnavailable):
    """A project's run numbers are kept in something that is no hash of numbers."""


async def reserve(
    client: StoreClient,
    project_name: str,
    run_ids: Sequence[RunId],
    *,
    partition: int,
    epoch: bytes,
    n: int,
    fresh: bool,
) -> list[int] | None:
    """Reserve a number for each run, in order; None where another projector has committed since `n`.

    With `fresh` (the first time after the partition was loaded) a fence of another epoch gives way.

    Raises: Uncountable; StoreUnavailable.
    """
    args: list[bytes | str | int] = [f"f:{partition}", epoch.hex(), n, int(fresh)]
    numbers = await _RESERVE.run(client, [numbers_key(project_name)], args + [to_bytes(r) for r in run_ids])
    if numbers == b"uncountable":
        raise Uncountable(f"the run numbers of {project_name} cannot be read")
    return [int(number) for number in numbers] if numbers else None


async def fence(client: StoreClient, project_name: str, partition: int) -> tuple[bytes, int] | None:
    """Read a partition's fence: the epoch and the number of its last known commit (None: there is none)."""
    stored: bytes | None = await client.execute_command("HGET", numbers_key(project_name), f"f:{partition}")
    epoch, _, n = (stored or b"").partition(b":")
    return (bytes.fromhex(epoch.decode()), int(n)) if n.isdigit() else None


async def forget(
    client: StoreClient, project_name: str, run_ids: Sequence[RunId], *, partition: int, epoch: bytes, n: int
) -> None:
    """Forget reservations that were committed by the commit numbered `n`, and raise the fence to it."""
    args: list[bytes | str | int] = [f"f:{partition}", epoch.hex(), n]
    await _FORGET.run(client, [numbers_key(project_name)], args + [to_bytes(run_id) for run_id in run_ids])


async def reserved(client: StoreClient, project_name: str) -> list[RunId]:
    """Name the runs that have a reservation."""
    fields = await client.execute_command("HKEYS", numbers_key(project_name))
    return [from_bytes(field[2:]) for field in fields if field.startswith(b"r:") and len(field) == 18]


async def erase(client: StoreClient, project_name: str) -> None:
    """Forget all numbers of a project that has no runs left: they begin with 1 again. Raises: StoreUnavailable."""
    await client.execute_command("UNLINK", numbers_key(project_name))


async def raise_to(client: StoreClient, project_name: str, last: int) -> None:
    """Give out no number up to `last` from now on: runs have them already. Raises: StoreUnavailable."""
    await _RAISE.run(client, [numbers_key(project_name)], [last])
