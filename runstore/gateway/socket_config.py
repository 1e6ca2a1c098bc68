"""Settings of sockets and streams."""

import msgspec


class PushConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway treats those it pushes to."""

    outbox_bytes: int = 4 * 1024 * 1024
    """How much may wait for one websocket before it is closed with 1013. Bytes."""

    stream_bytes: int = 1024 * 1024
    """How much may wait for one SSE stream before it is cut off. Bytes."""

    heartbeat_s: float = 20.0
    """How often a websocket is pinged; half of it later a missing pong closes it. Seconds."""

    keepalive_s: float = 15.0
    """How often a quiet SSE stream gets a comment. Seconds."""

    close_s: float = 10.0
    """How long a peer may take to read what is left and answer a close, before it is cut off. Seconds."""

    finish_s: float = 1.0
    """How long what waits for a websocket may take to be sent when the gateway stops, before it is closed. Seconds."""

    sweep_s: float = 1.0
    """How often the credentials of open sockets and streams are checked again. Seconds."""

    retry_s: float = 30.0
    """How long a look-up for an open subscription is tried again before the socket is closed with 1013. Seconds."""

    logs_poll_s: float = 0.25
    """How often followed logs are read while they come. Seconds."""
