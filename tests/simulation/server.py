"""A server in memory: the commands that the adapters use, with their own scripts run by LuaJIT, one at a time.

It knows no network and no clock of its own: who calls says what time it is. What it answers has the shape of the wire,
and is read by the callbacks of the real client.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from hashlib import sha1
from typing import Any

import lupa.luajit21 as lupa
from redis.exceptions import NoScriptError, ResponseError

Arg = bytes | str | int | float
_WRONG = "WRONGTYPE Operation against a key holding the wrong kind of value"
_SMALLER = "ERR The ID specified in XADD is equal or smaller than the target stream top item"
_LAST = 2**64 - 1
_NEVER = 2**62


class Stream:
    """Entries in order of their ids; the last id stays when they go."""

    def __init__(self) -> None:
        self.entries: list[tuple[tuple[int, int], bytes, list[bytes]]] = []
        self.last = (0, 0)


class ZSet(dict[bytes, float]):
    """Members and scores."""

    def ordered(self) -> list[tuple[bytes, float]]:
        return sorted(self.items(), key=lambda item: (item[1], item[0]))


_TYPES = {dict: b"hash", ZSet: b"zset", Stream: b"stream", bytes: b"string"}


class Server:
    """Keys, and the commands on them. `now_ms` is set by whoever calls."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}
        self.now_ms = 0
        self.on_added: Callable[[bytes], None] = lambda _: None
        self._expires_at = _NEVER
        self._scripts: set[bytes] = set()

    def execute(self, args: Sequence[Arg]) -> Any:
        """Run one command, and return its answer. Raises: ResponseError."""
        name, *rest = map(_packed, args)
        return self.run(name, rest)

    def run(self, name: bytes, args: list[bytes]) -> Any:
        """Run a command whose arguments are bytes already."""
        command = _COMMANDS.get(name)
        if command is None:
            raise ResponseError(f"ERR unknown command '{name.decode()}'")
        if self.now_ms >= self._expires_at:
            for key in [key for key, ms in self.expires.items() if ms <= self.now_ms]:
                self._delete(key)
            self._expires_at = min(self.expires.values(), default=_NEVER)
        return command(self, args)

    def _delete(self, key: bytes) -> int:
        self.expires.pop(key, None)
        return int(self.keys.pop(key, None) is not None)

    def _typed(self, key: bytes, kind: type, *, make: bool = False) -> Any:
        found = self.keys.get(key)
        if found is None:
            found = kind()
            if make:
                self.keys[key] = found
        elif type(found) is not kind:
            raise ResponseError(_WRONG)
        return found

    def _emptied(self, key: bytes, value: Any) -> None:
        if not value:
            self._delete(key)

    # connection and scripts

    def ping(self, _: list[bytes]) -> bytes:
        return b"PONG"

    def role(self, _: list[bytes]) -> list[Any]:
        return [b"master", 0, []]

    def time(self, _: list[bytes]) -> list[bytes]:
        return [b"%d" % (self.now_ms // 1000), b"%d" % (self.now_ms % 1000 * 1000)]

    def load_all(self, scripts: dict[bytes, bytes]) -> None:
        """Know scripts from the begin."""
        for sha, lua in scripts.items():
            _compile(sha, lua)
        self._scripts.update(scripts)

    def script_load(self, args: list[bytes]) -> bytes:
        sha = sha1(args[0], usedforsecurity=False).hexdigest().encode()
        _compile(sha, args[0])
        self._scripts.add(sha)
        return sha

    def eval(self, args: list[bytes]) -> Any:
        return self.evalsha([self.script_load([args[0]]), *args[1:]])

    def evalsha(self, args: list[bytes]) -> Any:
        if args[0] not in self._scripts:
            raise NoScriptError("NOSCRIPT No matching script")
        count = int(args[1])
        return run_script(self, args[0], args[2 : 2 + count], args[2 + count :])

    # keys and strings

    def type(self, args: list[bytes]) -> bytes:
        return _TYPES[type(self.keys[args[0]])] if args[0] in self.keys else b"none"

    def exists(self, args: list[bytes]) -> int:
        return sum(key in self.keys for key in args)

    def delete(self, args: list[bytes]) -> int:
        return sum(map(self._delete, args))

    def rename(self, args: list[bytes]) -> bytes:
        self.keys[args[1]] = self.keys.pop(args[0])
        return b"OK"

    def persist(self, args: list[bytes]) -> int:
        return int(self.expires.pop(args[0], None) is not None)

    def expire(self, args: list[bytes]) -> int:
        if args[0] in self.keys:
            self._expire(args[0], int(args[1]) * 1000)
        return int(args[0] in self.keys)

    def pexpire(self, args: list[bytes]) -> int:
        if args[0] in self.keys:
            self._expire(args[0], int(args[1]))
        return int(args[0] in self.keys)

    def ttl(self, args: list[bytes]) -> int:
        left_ms = self.pttl(args)
        return -(-left_ms // 1000) if left_ms >= 0 else left_ms

    def pttl(self, args: list[bytes]) -> int:
        if args[0] not in self.keys:
            return -2
        return max(0, int(self.expires[args[0]] - self.now_ms)) if args[0] in self.expires else -1

    def matching(self, args: list[bytes]) -> list[bytes]:
        return [key for key in self.keys if fnmatchcase(key.decode("latin-1"), args[0].decode("latin-1"))]

    def get(self, args: list[bytes]) -> bytes | None:
        found: bytes | None = self.keys.get(args[0])
        if found is not None and type(found) is not bytes:
            raise ResponseError(_WRONG)
        return found

    def set(self, args: list[bytes]) -> bytes | None:
        key, value, options = args[0], args[1], [arg.upper() for arg in args[2:]]
        if b"NX" in options and key in self.keys:
            return None
        self._delete(key)
        self.keys[key] = value
        for unit, ms in ((b"EX", 1000), (b"PX", 1)):
            if unit in options:
                self._expire(key, int(args[2 + options.index(unit) + 1]) * ms)
        return b"OK"

    def _expire(self, key: bytes, after_ms: int) -> None:
        self.expires[key] = self.now_ms + after_ms
        self._expires_at = min(self._expires_at, self.now_ms + after_ms)

    # hashes

    def mset(self, args: list[bytes]) -> bytes:
        for key, value in zip(args[::2], args[1::2], strict=True):
            self.set([key, value])
        return b"OK"

    def hset(self, args: list[bytes]) -> int:
        found = self._typed(args[0], dict, make=True)
        before = len(found)
        found.update(zip(args[1::2], args[2::2], strict=True))
        return len(found) - before

    def hsetnx(self, args: list[bytes]) -> int:
        found = self._typed(args[0], dict, make=True)
        return int(found.setdefault(args[1], args[2]) is args[2])

    def hget(self, args: list[bytes]) -> bytes | None:
        return self._typed(args[0], dict).get(args[1])  # type: ignore[no-any-return]

    def hmget(self, args: list[bytes]) -> list[bytes | None]:
        found = self._typed(args[0], dict)
        return [found.get(name) for name in args[1:]]

    def hgetall(self, args: list[bytes]) -> list[bytes]:
        return [part for item in self._typed(args[0], dict).items() for part in item]

    def hkeys(self, args: list[bytes]) -> list[bytes]:
        return list(self._typed(args[0], dict))

    def hdel(self, args: list[bytes]) -> int:
        found = self._typed(args[0], dict)
        gone = sum(found.pop(name, None) is not None for name in args[1:])
        self._emptied(args[0], found)
        return gone

    def hincrby(self, args: list[bytes]) -> int:
        found = self._typed(args[0], dict, make=True)
        found[args[1]] = b"%d" % (int(found.get(args[1], 0)) + int(args[2]))
        return int(found[args[1]])

    # sorted sets

    def zadd(self, args: list[bytes]) -> int:
        found = self._typed(args[0], ZSet, make=True)
        only_up = args[1].upper() == b"GT"
        before = len(found)
        pairs = args[1 + only_up :]
        for score, member in zip(pairs[::2], pairs[1::2], strict=True):
            found[member] = max(float(score), found.get(member, float("-inf"))) if only_up else float(score)
        return len(found) - before

    def zrem(self, args: list[bytes]) -> int:
        found = self._typed(args[0], ZSet)
        gone = sum(found.pop(member, None) is not None for member in args[1:])
        self._emptied(args[0], found)
        return gone

    def zcard(self, args: list[bytes]) -> int:
        return len(self._typed(args[0], ZSet))

    def zcount(self, args: list[bytes]) -> int:
        return len(self.zrangebyscore(args))

    def zscore(self, args: list[bytes]) -> bytes | None:
        score = self._typed(args[0], ZSet).get(args[1])
        return _score(score) if score is not None else None

    def zrange(self, args: list[bytes]) -> list[bytes]:
        start, stop, rows = int(args[1]), int(args[2]), self._typed(args[0], ZSet).ordered()
        return _members(rows[start : stop + 1 or None], args[3:])

    def zrangebyscore(self, args: list[bytes]) -> list[bytes]:
        return _members(_within(self._typed(args[0], ZSet), args[1], args[2]), args[3:])

    def zrevrangebyscore(self, args: list[bytes]) -> list[bytes]:
        return _members(_within(self._typed(args[0], ZSet), args[2], args[1])[::-1], args[3:])

    def zrangebylex(self, args: list[bytes]) -> list[bytes]:
        low, high = args[1][1:], args[2][1:]
        rows = [(member, 0.0) for member in sorted(self._typed(args[0], ZSet)) if low <= member <= high]
        return _members(rows, args[3:])

    def zremrangebyscore(self, args: list[bytes]) -> int:
        found = self._typed(args[0], ZSet)
        rows = _within(found, args[1], args[2])
        for member, _ in rows:
            del found[member]
        self._emptied(args[0], found)
        return len(rows)

    # streams

    def xadd(self, args: list[bytes]) -> bytes:
        place = 1
        most = None
        if args[place].upper() == b"MAXLEN":
            most, place = int(args[place + 2]), place + 3
        found = self._typed(args[0], Stream, make=True)
        entry = self._next_id(found, args[place])
        found.last = entry
        name = b"%d-%d" % entry
        found.entries.append((entry, name, args[place + 1 :]))
        if most is not None and len(found.entries) > most + 100:
            del found.entries[: len(found.entries) - most]
        self.on_added(args[0])
        return name

    def _next_id(self, stream: Stream, asked: bytes) -> tuple[int, int]:
        if asked == b"*":
            ms, seq = stream.last
            return (self.now_ms, 0) if self.now_ms > ms else (ms, seq + 1)
        ms, _, seq = asked.partition(b"-")
        entry = int(ms), int(seq or 0)
        if entry <= stream.last:
            raise ResponseError(_SMALLER)
        return entry

    def xlen(self, args: list[bytes]) -> int:
        return len(self._typed(args[0], Stream).entries)

    def xdel(self, args: list[bytes]) -> int:
        found = self._typed(args[0], Stream)
        before = len(found.entries)
        found.entries = [row for row in found.entries if row[1] not in args[1:]]
        return before - len(found.entries)

    def xtrim(self, args: list[bytes]) -> int:
        found, limit = self._typed(args[0], Stream), args[-1]
        before = len(found.entries)
        if args[1].upper() == b"MAXLEN":
            found.entries = found.entries[max(0, before - int(limit)) :]
        else:
            found.entries = [row for row in found.entries if row[0] >= _place(limit, 0)]
        return before - len(found.entries)

    def xinfo(self, args: list[bytes]) -> list[Any]:
        found = self._typed(args[1], Stream)
        first = _row(found.entries[0]) if found.entries else None
        return [b"last-generated-id", b"%d-%d" % found.last, b"first-entry", first]

    def xrange(self, args: list[bytes]) -> list[Any]:
        return self._rows(args[0], args[1], args[2], args[3:])

    def xrevrange(self, args: list[bytes]) -> list[Any]:
        return self._rows(args[0], args[2], args[1], args[3:], backwards=True)

    def _rows(self, key: bytes, low: bytes, high: bytes, rest: list[bytes], *, backwards: bool = False) -> list[Any]:
        found = self._typed(key, Stream)
        least, beyond = _place(low.lstrip(b"("), 0), low[:1] == b"("
        most = _place(high, _LAST)
        rows = [row for row in found.entries if least <= row[0] <= most and not (beyond and row[0] == least)]
        if backwards:
            rows.reverse()
        return [_row(row) for row in (rows[: int(rest[1])] if rest else rows)]

    def xread(self, args: list[bytes]) -> list[Any] | None:
        """Read what is there; whoever blocks asks again."""
        upper = [arg.upper() for arg in args[:6]]
        begin = upper.index(b"STREAMS") + 1
        count = int(args[upper.index(b"COUNT") + 1]) if b"COUNT" in upper[:begin] else None
        half = (len(args) - begin) // 2
        found = []
        for key, after in zip(args[begin : begin + half], args[begin + half :], strict=True):
            place = _place(after, 0)
            rows = [row for row in self._typed(key, Stream).entries if row[0] > place]
            if rows:
                found.append([key, [_row(row) for row in rows[:count]]])
        return found or None


_KEYS = (
    "PING",
    "ROLE",
    "TIME",
    "EVAL",
    "EVALSHA",
    "TYPE",
    "EXISTS",
    "RENAME",
    "PERSIST",
    "EXPIRE",
    "PEXPIRE",
    "TTL",
    "PTTL",
    "GET",
    "SET",
    "MSET",
)
_HASHES = ("HSET", "HSETNX", "HGET", "HMGET", "HGETALL", "HKEYS", "HDEL", "HINCRBY")
_SETS = ("ZADD", "ZREM", "ZCARD", "ZCOUNT", "ZSCORE", "ZRANGE", "ZRANGEBYLEX")
_SCORES = ("ZRANGEBYSCORE", "ZREVRANGEBYSCORE", "ZREMRANGEBYSCORE")
_STREAMS = ("XADD", "XLEN", "XDEL", "XTRIM", "XINFO", "XRANGE", "XREVRANGE", "XREAD")
_NAMES = (*_KEYS, *_HASHES, *_SETS, *_SCORES, *_STREAMS)
_COMMANDS: dict[bytes, Callable[[Server, list[bytes]], Any]] = {
    name.encode(): getattr(Server, name.lower()) for name in _NAMES
} | {b"DEL": Server.delete, b"UNLINK": Server.delete, b"SCRIPT LOAD": Server.script_load, b"KEYS": Server.matching}


def _packed(arg: Arg) -> bytes:
    if type(arg) is bytes:
        return arg
    return arg.encode() if isinstance(arg, str) else str(arg).encode()


def _score(score: float) -> bytes:
    return b"%d" % score if score == int(score) else repr(score).encode()


def _members(rows: list[tuple[bytes, float]], options: list[bytes]) -> list[bytes]:
    upper = [option.upper() for option in options]
    if b"LIMIT" in upper:
        begin = upper.index(b"LIMIT") + 1
        offset, count = int(options[begin]), int(options[begin + 1])
        rows = rows[offset : offset + count if count >= 0 else None]
    if b"WITHSCORES" in upper:
        return [part for member, score in rows for part in (member, _score(score))]
    return [member for member, _ in rows]


def _within(found: ZSet, low: bytes, high: bytes) -> list[tuple[bytes, float]]:
    least, most = float(low.lstrip(b"(")), float(high.lstrip(b"("))
    return [
        (member, score)
        for member, score in found.ordered()
        if (least < score if low[:1] == b"(" else least <= score)
        and (score < most if high[:1] == b"(" else score <= most)
    ]


def _place(text: bytes, seq: int) -> tuple[int, int]:
    if text in (b"-", b"+"):
        return (0, 0) if text == b"-" else (_LAST, _LAST)
    ms, _, rest = text.partition(b"-")
    return int(ms), int(rest) if rest else seq


def _row(row: tuple[tuple[int, int], bytes, list[bytes]]) -> list[Any]:
    return [row[1], list(row[2])]


# scripts: one interpreter for all servers of the process, each script a function of keys and arguments

_lua = lupa.LuaRuntime(encoding=None, unpack_returned_tuples=False)
_functions: dict[bytes, Any] = {}
_serving: list[Server] = []


def _call(*args: Any) -> Any:
    name, *rest = [_text(arg) for arg in args]
    return _to_lua(_serving[-1].run(name.upper(), rest))


def _pcall(*args: Any) -> Any:
    try:
        return _call(*args)
    except ResponseError as error:
        return _lua.table_from({b"err": str(error).encode()})


_lua.execute(b"redis = {}")
_lua.globals()[b"redis"][b"call"] = _call
_lua.globals()[b"redis"][b"pcall"] = _pcall
_lua.execute(b"redis.error_reply = function(text) return {err = text} end")


def _compile(sha: bytes, lua: bytes) -> None:
    if sha not in _functions:
        _functions[sha] = _lua.eval(b"function(KEYS, ARGV)\n" + lua + b"\nend")


def run_script(server: Server, sha: bytes, keys: list[bytes], args: list[bytes]) -> Any:
    """Run a script; nothing else happens meanwhile."""
    _serving.append(server)
    try:
        return _from_lua(_functions[sha](_lua.table_from(keys), _lua.table_from(args)))
    except lupa.LuaError as error:
        raise ResponseError(f"ERR {error}") from error
    finally:
        _serving.pop()


def _text(arg: Any) -> bytes:
    if type(arg) is bytes:
        return arg
    return b"%d" % arg if arg == int(arg) else repr(arg).encode()


def _to_lua(reply: Any) -> Any:
    if reply is None:
        return False
    return _lua.table_from([_to_lua(part) for part in reply]) if isinstance(reply, list) else reply


def _from_lua(value: Any) -> Any:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return 1 if value else None
    if isinstance(value, int | float):
        return int(value)
    if value[b"err"] is not None:
        raise ResponseError(value[b"err"].decode())
    found = []
    for place in range(1, len(value) + 1):
        found.append(_from_lua(value[place]))
    return found
