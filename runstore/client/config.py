"""Settings of a client."""

import msgspec


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a client, each with a default that suits most."""

    timeout_s: float = 30.0
    """How long one request may take, beyond the time it asked the gateway to hold its answer. Seconds."""

    connect_timeout_s: float = 10.0
    """How long a connection, or a websocket's handshake, may take. Seconds."""

    retry_for_s: float = 5.0
    """How long a request that may be repeated is repeated while the gateway is away or too busy. Seconds; 0: never."""

    give_up_s: float = 300.0
    """How long waits and watches look for a gateway that they lost, or never found, before they raise
    GatewayUnreachable. Seconds."""

    heartbeat_s: float = 30.0
    """After how much silence the websocket is asked whether it still lives; half as long again, and it is lost.
    Seconds."""

    backoff_s: float = 0.2
    """The first pause before another attempt; it doubles with each, and the real one is drawn between 0 and it.
    Seconds."""

    max_backoff_s: float = 5.0
    """The longest pause before another attempt. Seconds."""

    put_off_s: float = 1.0
    """The pause before a subscription that the gateway could not begin, its store being away, is asked for again.
    Seconds."""

    websocket_retry_s: float = 60.0
    """How long the client goes on by streams of events, or by long poll, where a proxy refused the websocket, before it
    tries that again. Seconds."""

    stream_patience_s: float = 5.0
    """How long a stream of events may be without a word at its beginning before it counts as held back by a proxy, and
    the client goes on by long poll. Seconds."""

    max_message_bytes: int = 16 * 1024 * 1024
    """The longest websocket message that is read; a run with its output has little more than 1 MiB. Bytes."""

    buffer_items: int = 10_000
    """How many runs a watch keeps for a reader that is slow, before it lets go and resumes by cursor."""

    buffer_bytes: int = 32 * 1024 * 1024
    """How many bytes of runs a watch keeps for a reader that is slow, likewise. Bytes."""
