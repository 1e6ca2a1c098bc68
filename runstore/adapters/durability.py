"""What an acknowledgement means: Redis has it, its disk has it, or its replicas have it."""

from enum import StrEnum

import msgspec

from runstore.adapters.connection import StorePipeline
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
        reply = replies[-1]
        match self.durability:
            case Durability.FSYNCED:
                done = isinstance(reply, list) and reply[0] >= 1
            case Durability.REPLICATED:
                done = isinstance(reply, int) and reply >= self.min_replicas
            case Durability.ACKNOWLEDGED:
                return
        if not done:
            raise StoreUnavailable(f"the write was not {self.durability.value} within {self.wait_ms} ms: try again")
