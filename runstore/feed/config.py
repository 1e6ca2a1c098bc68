"""Settings of the tail."""

import msgspec


class TailConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway follows the feed."""

    block_ms: int = 2000
    """How long one blocking read waits for news. Milliseconds; below the socket timeout of the store."""

    prove_every_s: float = 30.0
    """How often places are proven while nothing went wrong. Seconds."""

    identify_every_s: float = 2.0
    """How often the store is asked for its id, which is another once somebody emptied it. Seconds."""

    shared_fresh_s: float = 0.2
    """How long clients that resume from one place share what the feed says about it and after it. Seconds."""

    backoff_s: float = 0.1
    """The first pause after a failed turn, doubled with each further one. Seconds."""

    backoff_max_s: float = 3.0
    """The longest such pause. Seconds."""

    after_timeout_s: float = 5.0
    """How long an answer waits for the projector to reach a place. Seconds."""

    rollback_slack_s: float = 60.0
    """How far before the last certain event a subscriber is told to catch up after a rollback. Seconds."""

    body_cache_bytes: int = 32 * 1024 * 1024
    """How much memory the shared capped outputs of recent pushes may take. Bytes."""

    looked_bytes: int = 16 * 1024 * 1024
    """How much memory runs may take that were looked up for subscribers, and are shared with those to come. Bytes."""
