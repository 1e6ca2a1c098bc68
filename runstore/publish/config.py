"""Settings of a publisher."""

from typing import Literal

import msgspec


class PublisherConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a publisher, each with a default that suits most."""

    patience_s: float = 2.0
    """How long the store may take to acknowledge an event before it counts as away and the event goes into the spool;
    a server that refuses the connection is away at once. A large output gets a second more for each 4 MiB. Seconds."""

    timeout_s: float = 10.0
    """How long an event may wait for the store where the spool cannot keep it, before StoreUnavailable is raised, and
    how long `close` waits for what is on its way. Seconds."""

    backoff_s: float = 0.05
    """The first pause before another attempt; it doubles with each, and the real one is drawn between 0 and it.
    Seconds."""

    max_backoff_s: float = 1.0
    """The longest pause before another attempt. Seconds."""

    durability: Literal["acknowledged", "fsynced", "replicated"] = "acknowledged"
    """What an acknowledgement means: Redis has it, its disk has it, or `min_replicas` replicas have it."""

    min_replicas: int = 1
    """How many replicas must have an event before it counts, with the durability `replicated`."""

    inline_output_bytes: int = 16 * 1024
    """Outputs over this size are written beside the log, before the event that names them. Bytes."""

    epoch_s: float = 10.0
    """How long a partition's epoch, which cursors carry, is taken to hold. Seconds."""

    lease_s: float = 60.0
    """How long a tracked run is held for after the last heartbeat of its process; then it ends as `failed`, "worker
    lost". Seconds."""

    heartbeat_s: float = 5.0
    """How often the lease of a tracked run is renewed, but three times a lease at least. Seconds."""

    batch_events: int = 256
    """Events sent at once at most."""

    batch_bytes: int = 8 * 1024 * 1024
    """Outputs sent at once at most, unless a single one is larger. Bytes."""

    queue_bytes: int = 16 * 1024 * 1024
    """How much may wait in memory to be sent before `publish` waits for room. Bytes."""

    recent_s: float = 60.0
    """How long an event is kept in memory after the store acknowledged it, to be sent again should the store come back
    without it. Seconds."""

    recent_bytes: int = 4 * 1024 * 1024
    """How much is kept so at most, but the newest event in any case; 0 keeps nothing. Bytes."""

    spool_dir: str | None = None
    """The folder that keeps events while the store is away. None: `runstore/spool` in XDG_STATE_HOME, else in
    `~/.local/state`; RUNSTORE_SPOOL_DIR names another. A user without a home has one beneath /var/tmp."""

    spool_bytes: int = 256 * 1024 * 1024
    """How much one process keeps there at most; 0 keeps nothing. Bytes."""
