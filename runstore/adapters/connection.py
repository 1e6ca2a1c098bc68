"""Connections to Redis: made with timeouts, to a primary only, without blind retries; every failure is one error.

A write is never retried here: whether it was done before the connection broke cannot be known, so the caller decides.
A call that is cancelled midway closes its connection, so that its reply never reaches another caller.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from time import monotonic
from typing import Any, Final

import redis
from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as NoAnswer

from runstore.core.errors import InvalidRequest, StoreUnavailable

MAX_BLOCK_MS: Final = 30_000
"""The longest that one blocking read may wait for; longer waits are made of several."""

NOT_LOADED_S: Final = 2.0
"""How long a user who may send no scripts waits for a projector to load one; projectors look twice in it at least."""

_NOT_LOADED_PAUSE_S: Final = 0.05
_NOT_LOADED: Final = (
    "this user may run no scripts but those that a projector has loaded, and Redis does not know this one: "
    "start `runstore projector` of this version"
)
_LONG_COMMANDS: Final = frozenset({"EVALSHA", "EVAL", "HMGET", "XADD", "XREAD"})
_MOST_OPTIONS: Final = 8
ASK_EVERY_S: Final = 2.0
"""How often a connection that is in use asks whether the server is the primary still."""
_UNANSWERED: Final = (NoAnswer, TimeoutError)
_BROKEN: Final = (RedisConnectionError, NoAnswer, OSError, TimeoutError)
_NOT_READY: Final = (ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_NOT_READY_TEXTS: Final = ("MISCONF", "NOREPLICAS")
_FAILURES: Final = (RedisError, OSError, TimeoutError)
_GET_CONNECTION: Final[tuple[str, ...]] = ("_",) if redis.__version__.startswith("5.2.") else ()
_FITS_BYTES: Final = 32 * 1024
"""What a transport takes without waiting, since nothing else is on its way there."""


class RedisCounts:
    """What this process had to do with Redis, over all its clients: connections made, and questions that failed."""

    __slots__ = ("broken", "connections", "refused", "unanswered")

    def __init__(self) -> None:
        self.connections = self.unanswered = self.broken = self.refused = 0


COUNTS: Final = RedisCounts()


@contextmanager
def translated() -> Iterator[None]:
    """Turn every failure of Redis or of the way to it into StoreUnavailable, with the failure as its cause.

    NoScriptError passes, for those who run scripts.
    """
    try:
        yield
    except NoScriptError:
        raise
    except _FAILURES as error:
        raise _unavailable(error) from error


def is_away(error: StoreUnavailable) -> bool:
    """Say whether the server may be there later as it is told to be: it was not reached, or is not ready yet.

    A server that answers, but refuses us or holds what cannot be read, waits for somebody to mend that. Whether it is
    the primary changes by itself.
    """
    cause = error.__cause__
    if isinstance(cause, StoreUnavailable):
        return is_away(cause)
    if isinstance(cause, (AuthenticationError, AuthorizationError)):
        return False
    return cause is None or isinstance(cause, (*_BROKEN, *_NOT_READY)) or str(cause).startswith(_NOT_READY_TEXTS)


def _unavailable(error: Exception) -> StoreUnavailable:
    if isinstance(error, _UNANSWERED):
        COUNTS.unanswered += 1
    elif isinstance(error, _BROKEN):
        COUNTS.broken += 1
    else:
        COUNTS.refused += 1
    return StoreUnavailable(f"Redis did not do as asked: {str(error)[:200] or type(error).__name__}")


def _block_ms(args: Sequence[Any]) -> int:
    options = args[:_MOST_OPTIONS]
    return int(args[options.index("BLOCK") + 1]) if "BLOCK" in options else 0


class StoreClient(Redis):  # type: ignore[type-arg, unused-ignore]
    """A client whose failures are StoreUnavailable. `scripts` holds the hashes of scripts that were loaded."""

    is_cluster = False

    def __init__(self, pool: BlockingConnectionPool, timeout_s: float) -> None:
        super().__init__(connection_pool=pool)
        self._timeout_s = timeout_s
        self.scripts: set[str] = set()
        self.may_load = True
        self._begun: set[asyncio.Task[Any]] = set()
        self._ends: list[Callable[[], Awaitable[None]]] = []

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin something that ends with this client at the latest, whether anybody waits for it or not."""
        task = asyncio.create_task(work)
        self._begun.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()

    async def of_server(self, key: bytes | str) -> "StoreClient":
        """Return a client for the one server that holds a key, for what is about all that it holds.

        Raises: StoreUnavailable.
        """
        return self

    async def servers(self) -> Sequence["StoreClient"]:
        """Return a client for each server that takes writes. Raises: StoreUnavailable."""
        return [self]

    def on_shut(self, end: Callable[[], Awaitable[None]]) -> None:
        """Call this when the client is shut."""
        self._ends.append(end)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command. Raises: StoreUnavailable."""
        try:
            return await self.plain(*args, **options)
        except NoScriptError:
            raise
        except _FAILURES as error:
            raise _unavailable(error) from error

    async def plain(self, *args: Any, **options: Any) -> Any:
        """Run one command; one that blocks may take its own time above that of the others.

        Raises: what the client raises.
        """
        if (block_ms := _block_ms(args)) == 0:
            return await self._one(args, options)
        async with asyncio.timeout(self._timeout_s + block_ms / 1000):
            return await self._one(args, options)

    async def _one(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """By hand: what redis-py puts around a command, to retry and to measure it, we use neither of, and pay for."""
        pool: Any = self.connection_pool
        life = pool.life
        try:
            connection = await pool.get_connection()
            try:
                await connection.send_command(*args)
                return await self.parse_response(connection, args[0], **options)
            except _BROKEN:
                await connection.disconnect()
                raise
            finally:
                await pool.release(connection)
        except _UNANSWERED:
            pool.suspect(life)
            raise
        except ReadOnlyError:
            self.doubt()
            raise

    def doubt(self) -> None:
        """Let no command begin on a connection that is open now: the server behind it may be one of the past."""
        pool: Any = self.connection_pool
        pool.suspect(pool.life)

    async def drop(self) -> None:
        """Close every connection; what is asked next makes its own."""
        await self.connection_pool.disconnect()

    async def shut(self) -> None:
        """Close every connection, for good; may be called twice."""
        begun = tuple(self._begun)
        for task in begun:
            task.cancel()
        if begun:
            await asyncio.wait(begun)
        with translated():
            await self.aclose()
            await self.drop()
        for end in self._ends:
            await end()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "StorePipeline":
        """Begin a pipeline whose failures are StoreUnavailable as well."""
        return StorePipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class StorePipeline(Pipeline):  # type: ignore[type-arg, unused-ignore]
    """A pipeline whose failures are StoreUnavailable."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run what was queued. Raises: StoreUnavailable."""
        with translated():
            return await self.plain(raise_on_error)

    async def plain(self, raise_on_error: bool = True) -> list[Any]:
        """Run what was queued. Raises: what the client raises."""
        pool: Any = self.connection_pool
        life = pool.life
        try:
            replies: list[Any] = await super().execute(raise_on_error)
        except _UNANSWERED:
            pool.suspect(life)
            raise
        return replies


class _PacksFast:
    """Mixed into a connection: the commands with thousands of arguments are packed in C, at a fifth of the cost."""

    def pack_command(self, *args: Any) -> list[bytes]:
        if args[0] in _LONG_COMMANDS:
            return [pack_command(args)]
        packed: list[bytes] = super().pack_command(*args)  # type: ignore[misc]
        return packed


class _Pool(BlockingConnectionPool):
    """A pool that gets every connection back, also from a caller who is cancelled while handing it in.

    Connections that were made in a former `life` are made anew before they are used again.
    """

    life = 0
    greeting: "Greeting"

    def suspect(self, life: int) -> None:
        """Let no command begin on a connection that was open in a `life`.

        Where one command was not answered in time, they may all lead to a server or a way that is gone without a word,
        and each would cost the next caller as long.
        """
        self.life = max(self.life, life + 1)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        made: Any = connection
        if getattr(made, "life", self.life) != self.life:
            await connection.disconnect()
        made.life = self.life
        if not await _is_ready(made):
            await super().ensure_connection(connection)
        if not await self.greeting.still_holds(connection):
            # those that are open lead to a server that was demoted, and answers all the same
            self.suspect(self.life)
            await connection.disconnect()
            made.life = self.life
            await super().ensure_connection(connection)

    async def get_connection(self, *args: Any, **options: Any) -> AbstractConnection:
        parent: Any = super()
        connection: AbstractConnection
        if not self._available_connections:
            connection = await parent.get_connection(*(args or _GET_CONNECTION), **options)
            return connection
        connection = parent.get_available_connection()  # no lock and no timer where there is nothing to wait for
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        # the clients from 5.2 to 8 wait in different places here; where none of them will, a task is saved
        locks = (getattr(self, "_condition", None), getattr(self, "_lock", None))
        reconnects = getattr(connection, "should_reconnect", None)
        if any(lock is not None and lock.locked() for lock in locks) or (reconnects is not None and reconnects()):
            await asyncio.shield(asyncio.ensure_future(super().release(connection)))
        elif getattr(locks[0], "_waiters", True):
            await super().release(connection)
        else:
            # what they do beside this is to tell nobody and to count for a meter that we do not use
            self._in_use_connections.remove(connection)
            self._available_connections.append(connection)


async def _is_ready(connection: Any) -> bool:
    """Say whether an open connection may be used as it is, where the client can tell without reading.

    The client's own way to see that goes through a try to connect, with its retries, before every command.
    """
    try:
        return bool(hasattr(connection, "can_read") and connection.is_connected and not await connection.can_read())
    except (RedisConnectionError, OSError):
        return False


class _SendsItself:
    """Sends without a task of its own: redis-py makes one where there is a timeout, and Python 3.11 loses the
    cancellation of a call that waits for such a task, so that a loop over Redis could not be stopped.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        connection: Any = super()
        if not connection.is_connected:
            await self.connect()  # type: ignore[attr-defined]
        timeout_s, self.socket_timeout = self.socket_timeout, None  # type: ignore[has-type]
        try:
            if sum(map(len, command)) <= _FITS_BYTES:
                await connection.send_packed_command(command, check_health)
            else:
                async with asyncio.timeout(timeout_s):
                    await connection.send_packed_command(command, check_health)
        finally:
            self.socket_timeout = timeout_s


def connect(
    url: str,
    *,
    max_connections: int,
    timeout_s: float,
    block_ms: int = 0,
    greeting: "Greeting | None" = None,
    mixin: type | None = None,
) -> StoreClient:
    """Make a client for the URL of one server; nothing is sent yet.

    `mixin` changes how its connections are made.

    Units: `block_ms` is the longest that a command of this client may block for.

    Raises: InvalidRequest where the URL is none of Redis.
    """
    greeting = greeting or Greeting()
    try:
        pool = _Pool.from_url(
            url,
            max_connections=max_connections,
            timeout=timeout_s,
            socket_timeout=timeout_s + block_ms / 1000,
            socket_connect_timeout=timeout_s,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            protocol=2,
            redis_connect_func=greeting.greet,
        )
        pool.greeting = greeting
        bases = (_PacksFast, _SendsItself, *((mixin,) if mixin is not None else ()), pool.connection_class)
        pool.connection_class = type("StoreConnection", bases, {})
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"the Redis URL cannot be used: {str(error)[:120]}") from None
    return StoreClient(pool, timeout_s)


class Greeting:
    """Log in, and refuse a server that is not a primary: a replica that is cut off answers reads without any error.

    A server that does not know `ROLE` is asked once only.
    """

    def __init__(self) -> None:
        self.knows_role = True
        self.is_primary: Callable[[str, int], Awaitable[bool]] | None = None
        self.made = 0

    async def greet(self, connection: AbstractConnection) -> None:
        """Begin a connection. Raises: StoreUnavailable where the server is a replica."""
        await connection.on_connect()
        self.made += 1
        COUNTS.connections += 1
        await self._ask(connection)

    async def still_holds(self, connection: AbstractConnection) -> bool:
        """Say whether an open connection leads to the primary still; looked at every few seconds only."""
        made: Any = connection
        if monotonic() - getattr(made, "asked_at", 0.0) < ASK_EVERY_S:
            return True
        try:
            await self._ask(connection)
            return self.is_primary is None or await self.is_primary(made.host, made.port)
        except (StoreUnavailable, RedisError, OSError, TimeoutError):
            return False
        except BaseException:
            # the reply may come yet, and must not meet whoever is next
            await connection.disconnect(nowait=True)
            raise

    async def _ask(self, connection: AbstractConnection) -> None:
        made: Any = connection
        made.asked_at = monotonic()
        if not self.knows_role:
            return
        await connection.send_command("ROLE")
        try:
            role = await connection.read_response()
        except ResponseError:
            self.knows_role = False
        else:
            check_role(role)


def check_role(role: Any) -> None:
    """Check the answer to `ROLE`. Raises: StoreUnavailable where it is a replica's."""
    name = role[0] if isinstance(role, list) and role else b"master"
    if name not in (b"master", "master"):
        raise StoreUnavailable("the server is a replica: give the address of the primary")


class Script:
    """A Lua script: loaded once for each client, run by its hash, sent whole where the server has forgotten it.

    A user who may send no scripts runs those that a projector has loaded (`scripts`), and waits a moment for it where
    a server that was started anew knows none yet.
    """

    def __init__(self, lua: str) -> None:
        self.lua = lua
        self.sha = sha1(lua.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: StoreClient, keys: Sequence[bytes | str], args: Sequence[bytes | str | int]) -> Any:
        """Run the script. Raises: StoreUnavailable."""
        await self._load(client)
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            if not client.may_load:
                return await self._run_soon(client, keys, args)
        try:
            return await client.execute_command("EVAL", self.lua, len(keys), *keys, *args)
        except StoreUnavailable as error:
            if not is_forbidden(error):
                raise
            client.may_load = False
            return await self._run_soon(client, keys, args)

    async def run_each(
        self,
        client: StoreClient,
        calls: Sequence[tuple[Sequence[bytes | str], Sequence[bytes | str | int]]],
    ) -> list[Any]:
        """Run the script for each pair of keys and arguments in one round trip; what fails by itself is an error there.

        Raises: StoreUnavailable where none is known to have run.
        """
        if calls:
            await self._load(client)
        replies = await self._by_hash(client, calls)
        while unknown := [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
            # no server of a cluster is told beforehand, nor one that was started anew; one call teaches one server
            replies[unknown[0]] = await self.run(client, *calls[unknown[0]])
            rest = unknown[1:]
            for place, reply in zip(rest, await self._by_hash(client, [calls[each] for each in rest]), strict=True):
                replies[place] = reply
        return replies

    async def _by_hash(
        self,
        client: StoreClient,
        calls: Sequence[tuple[Sequence[bytes | str], Sequence[bytes | str | int]]],
    ) -> list[Any]:
        pipe = client.pipeline(transaction=False)
        for keys, args in calls:
            pipe.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        return list(await pipe.execute(raise_on_error=False)) if calls else []

    async def _load(self, client: StoreClient) -> None:
        if self.sha in client.scripts or not client.may_load:
            return
        try:
            await client.execute_command("SCRIPT LOAD", self.lua)
        except StoreUnavailable as error:
            if not is_forbidden(error):
                raise
            client.may_load = False
        client.scripts.add(self.sha)

    async def _run_soon(self, client: StoreClient, keys: Sequence[bytes | str], args: Sequence[Any]) -> Any:
        end_s = monotonic() + NOT_LOADED_S
        while True:
            await asyncio.sleep(_NOT_LOADED_PAUSE_S)
            try:
                return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
            except NoScriptError as error:
                if monotonic() >= end_s:
                    raise StoreUnavailable(_NOT_LOADED) from error


def is_forbidden(error: StoreUnavailable) -> bool:
    """Whether the server refused what its user may not do."""
    return isinstance(error.__cause__, NoPermissionError)
