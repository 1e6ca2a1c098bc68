"""What an acknowledgement means: Redis has it, its disk has it, or its replicas have it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
from redis.exceptions import NoScriptError

from runstore.adapters.connection import Script, StoreClient, StorePipeline
from runstore.core.errors import StoreUnavailable


class Durability(StrEnum):
    """How safe a write is before it is acknowledged."""

    ACKNOWLEDGED = "acknowledged"
    FSYNCED = "fsynced"
    REPLICATED = "replicated"


class Safety(msgspec.Struct, frozen=True, kw_only=True):
    """The durability that writes of a store wait for."""

    durability: Durability = Durability.ACKNOWLEDGED
    """`acknowledged`, `fsynced` (needs AOF and Redis 7.2 or Valkey) or `replicated`."""

    min_replicas: int = 1
    """How many replicas must have a write under `replicated`."""

    wait_ms: int = 4000
    """Milliseconds to wait for disk or replicas before the write counts as not done; less than the socket timeout."""

    @property
    def has_mark(self) -> bool:
        """Whether commits are told only once they are known to be that safe."""
        return self.durability is not Durability.ACKNOWLEDGED

    async def run(
        self, script: Script, client: StoreClient, keys: Sequence[bytes], args: Sequence[bytes | str | int]
    ) -> tuple[Any, bool]:
        """Run a script, wait on its own connection, and return its reply and whether what it wrote is that safe.

        Raises: StoreUnavailable; it may have run all the same.
        """
        if not self.has_mark:
            return await script.run(client, keys, args), True
        replies: list[Any] = []
        for name, body in (("EVALSHA", script.sha), ("EVAL", script.lua)):
            pipe = client.pipeline(transaction=False)
            pipe.execute_command(name, body, len(keys), *keys, *args)
            self.add_wait(pipe)
            replies = await pipe.execute(raise_on_error=False)
            if not isinstance(replies[0], NoScriptError):
                break
        if isinstance(replies[0], Exception):
            raise StoreUnavailable(f"Redis did not do as asked: {str(replies[0])[:200]}") from replies[0]
        return replies[0], self.is_done(replies[-1])

    def add_wait(self, pipe: StorePipeline) -> None:
        """Queue the wait behind the writes of a pipeline: it counts writes of its own connection only."""
        match self.durability:
            case Durability.FSYNCED:
                pipe.execute_command("WAITAOF", 1, 0, self.wait_ms)
            case Durability.REPLICATED:
                pipe.execute_command("WAIT", self.min_replicas, self.wait_ms)
            case Durability.ACKNOWLEDGED:
                pass

    def check_wait(self, replies: list[object]) -> None:
        """Check the wait's reply, the last one. Raises: StoreUnavailable where the write is not that safe yet."""
        if not self.is_done(replies[-1]):
            raise StoreUnavailable(f"the write was not {self.durability.value} within {self.wait_ms} ms: try again")

    def is_done(self, reply: object) -> bool:
        """Whether a wait's reply says that the write is as safe as it is to be."""
        match self.durability:
            case Durability.FSYNCED:
                return isinstance(reply, list) and reply[0] >= 1
            case Durability.REPLICATED:
                return isinstance(reply, int) and reply >= self.min_replicas
            case Durability.ACKNOWLEDGED:
                return True
