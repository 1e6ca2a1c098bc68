"""Settings of sockets and streams."""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
"""How many of something; 0 where its setting says so: any number."""

AtLeastOne = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class PushConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway treats those it pushes to."""

    max_message_bytes: Bytes = 64 * 1024
    """Bytes of one message of a client."""

    max_run_ids: AtLeastOne = 1000
    """Run ids in one subscription. The Python client asks for as many at once, so fewer are for other clients."""

    max_subscriptions: AtLeastOne = 100
    """Subscriptions on one websocket. The Python client counts on as many, so fewer are for other clients."""

    outbox_bytes: Bytes = 4 * 1024 * 1024
    """How much may wait for one websocket before it is closed with 1013. Bytes."""

    stream_bytes: Bytes = 1024 * 1024
    """How much may wait for one SSE stream before it is cut off. Bytes."""

    heartbeat_s: Seconds = 20.0
    """How often a websocket is pinged; half of it later a missing pong closes it. Seconds."""

    stream_keepalive_s: Seconds = 15.0
    """How often a quiet SSE stream gets a comment. Seconds."""

    close_s: Seconds = 10.0
    """How long a peer may take to read what is left and answer a close, before it is cut off. Seconds."""

    finish_s: Seconds = 1.0
    """How long what waits for a websocket may take to be sent when the gateway stops, before it is closed. Seconds."""

    sweep_s: Seconds = 1.0
    """How often the credentials of open sockets and streams are checked again. Seconds."""

    retry_s: Seconds = 30.0
    """How long a look-up for an open subscription is tried again before the socket is closed with 1013. Seconds."""

    logs_poll_s: Seconds = 0.25
    """How often followed logs are read while they come. Seconds."""
