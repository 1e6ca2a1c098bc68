"""The gateway's configuration."""

from typing import Annotated, Literal

from msgspec import Meta

from runstore.core.event import MAX_EVENT_BYTES, MAX_JSON_DEPTH, MAX_OUTPUT_BYTES
from runstore.gateway.socket_config import AtLeastOne, Bytes, Count, PushConfig, Seconds
from runstore.wire.event import EventLimits
from runstore.wire.messages import MessageLimits


class GatewayConfig(PushConfig, frozen=True, kw_only=True):
    """What a gateway may be told, sockets and streams included.

    Each limit that a caller can run into is a row of docs/limits.md, which a test compares with this.
    """

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` or `::` listens on every interface."""

    port: int = 8080
    """Port to listen on; 0 picks a free one."""

    reuse_port: bool = False
    """Whether several gateways may listen on one port, the kernel sharing out connections among them."""

    backlog: AtLeastOne = 1024
    """Connections that the kernel keeps waiting to be accepted."""

    allowed_origins: frozenset[str] = frozenset()
    """Origins of browsers let in beside the gateway's own, such as `https://runs.example`; `*` lets in all."""

    tokens_refresh_s: Seconds = 2.0
    """Seconds between two looks at the stored API tokens: how long a revoked one may still be taken."""

    tokens_stale_s: Seconds = 60.0
    """Seconds after which a look at the tokens is too old to let anybody in by it (503 until the store is back)."""

    recheck_s: Seconds = 5.0
    """Most seconds that a waiting answer goes on before its token is looked at again."""

    fold_wait_s: Seconds = 5.0
    """Seconds to wait for the projector before an answer that must show its news is 503."""

    max_wait_s: AtLeastOne = 60
    """Most seconds that `Prefer: wait` may hold an answer, and what `mode: sync` waits unless told."""

    store_timeout_s: Seconds = 5.0
    """Seconds that one question to the store may take before it is 503, where the store sets no stricter one."""

    max_run_body_bytes: Bytes = 1024 * 1024 + 64 * 1024
    """Bytes of a request to run: 1 MiB of inputs and room for the rest."""

    max_inputs_bytes: Bytes = 1024 * 1024
    """Bytes of a run's inputs as compact JSON."""

    max_event_body_bytes: Bytes = 64 * 1024 * 1024 + 256 * 1024
    """Bytes of a published event: 64 MiB of output and 256 KiB for the rest."""

    max_event_bytes: Annotated[int, Meta(ge=1, le=MAX_EVENT_BYTES)] = MAX_EVENT_BYTES
    """Bytes of a published event without its output; the store itself takes no more than the default."""

    max_output_bytes: Annotated[int, Meta(ge=1, le=MAX_OUTPUT_BYTES)] = MAX_OUTPUT_BYTES
    """Bytes of a published output as compact JSON; the store itself takes no more than the default."""

    max_json_depth: Annotated[int, Meta(ge=1, le=MAX_JSON_DEPTH)] = MAX_JSON_DEPTH
    """Levels that the JSON of a body or message may have; the store itself takes no more than the default."""

    max_bodies_bytes: Bytes = 256 * 1024 * 1024
    """Bytes of all bodies being read at one time; a request over it is told to come again (429)."""

    inline_output_bytes: int = 16 * 1024
    """Outputs over this many bytes are written beside the log, before the event that names them."""

    head_timeout_s: Seconds = 10.0
    """Seconds in which the head of a request must arrive, from its first byte or the connection's beginning."""

    keepalive_s: Seconds = 75.0
    """Seconds that a connection may stay open without a request."""

    body_idle_s: Seconds = 10.0
    """Most seconds between two pieces of a body."""

    body_timeout_s: Seconds = 120.0
    """Most seconds for a whole body."""

    write_stall_s: Seconds = 30.0
    """Seconds that a peer may leave what was sent to it unread before its connection is cut."""

    max_head_line_bytes: Bytes = 16 * 1024
    """Bytes of a request line, and of one header."""

    max_headers: AtLeastOne = 64
    """Headers of one request."""

    max_head_bytes: Bytes = 64 * 1024
    """Bytes of the whole head of a request."""

    connections_per_address: Count = 20_000
    """Connections that one address may hold open; 0: any number. Behind a proxy all come from the proxy's.

    Here and below, the addresses of an IPv6 network of 64 bits count as one."""

    connections_per_token: Count = 20_000
    """Websockets, SSE streams and waiting answers together that one token may hold open; 0: any number.

    A JWT counts for its subject, and a run token for its run, however many there are of them."""

    runs_per_token: Count = 250_000
    """Runs that one token may be subscribed to by their ids at one time, over all its websockets; 0: any number."""

    requests_per_s: Annotated[float, Meta(ge=0)] = 10_000.0
    """Requests a second that one token may make, in the long run; 0: any number.

    A message on a websocket counts as a request, and one that subscribes as one for each ten runs that it names."""

    stranger_requests_per_s: Annotated[float, Meta(ge=0)] = 1_000.0
    """Requests a second without a valid token that one address may make, in the long run; 0: any number."""

    requests_burst_s: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    """How many seconds of those requests may come at once, after as long a quiet."""

    cache_bytes: int = 64 * 1024 * 1024
    """Bytes of memory for ready answers of runs that have ended."""

    big_outputs_at_once: AtLeastOne = 4
    """Whole outputs over 1 MiB that are unpacked at one time to give out one key of them."""

    ready_lag_s: float = 10.0
    """Seconds that the projector may be behind the log before `/readyz` says so."""

    ready_every_s: Seconds = 2.0
    """Seconds between two looks at how far behind the projector is."""

    shutdown_s: float = 5.0
    """Seconds that open requests and sockets get to end once the gateway is told to stop."""

    metrics_access: Literal["open", "token", "off"] = "open"
    """Who may read `/metrics`: everybody who reaches the gateway, who has a token with `runs:read` for every project,
    or nobody. Its numbers name no project and no run, but tell how much there is of them."""

    metrics_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """A port on which the same numbers are given without a token; 0 picks a free one. Unset: none."""

    metrics_host: str = "127.0.0.1"
    """Address of that port."""

    partial_page_rounds: AtLeastOne = 8
    """Short pages of a narrow listing that are asked for and joined before one is answered as it is."""

    @property
    def event_limits(self) -> EventLimits:
        """What a published event may have."""
        return EventLimits(
            event_bytes=self.max_event_bytes, output_bytes=self.max_output_bytes, json_depth=self.max_json_depth
        )

    @property
    def message_limits(self) -> MessageLimits:
        """What a message on a websocket may have."""
        return MessageLimits(
            message_bytes=self.max_message_bytes, run_ids=self.max_run_ids, json_depth=self.max_json_depth
        )
