"""The gateway's configuration."""

import msgspec


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway may be told. Every limit of the contract that a caller can run into is here or in `core.event`."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` or `::` listens on every interface."""

    port: int = 8080
    """Port to listen on; 0 picks a free one."""

    reuse_port: bool = False
    """Whether several gateways may listen on one port, the kernel sharing out connections among them."""

    backlog: int = 1024
    """Connections that the kernel keeps waiting to be accepted."""

    allowed_origins: frozenset[str] = frozenset()
    """Origins of browsers let in beside the gateway's own, such as `https://runs.example`; `*` lets in all."""

    tokens_refresh_s: float = 2.0
    """Seconds between two looks at the stored API tokens: how long a revoked one may still be taken."""

    tokens_stale_s: float = 60.0
    """Seconds after which a look at the tokens is too old to let anybody in by it (503 until the store is back)."""

    recheck_s: float = 5.0
    """Most seconds that a waiting answer goes on before its token is looked at again."""

    fold_wait_s: float = 5.0
    """Seconds to wait for the projector before an answer that must show its news is 503."""

    max_wait_s: int = 60
    """Most seconds that `Prefer: wait` may hold an answer, and what `mode: sync` waits unless told."""

    store_timeout_s: float = 5.0
    """Seconds that one question to the store may take before it is 503, where the store sets no stricter one."""

    max_run_body_bytes: int = 1024 * 1024 + 64 * 1024
    """Bytes of a request to run: 1 MiB of inputs and room for the rest."""

    max_inputs_bytes: int = 1024 * 1024
    """Bytes of a run's inputs as compact JSON."""

    max_event_body_bytes: int = 64 * 1024 * 1024 + 256 * 1024
    """Bytes of a published event: 64 MiB of output and 256 KiB for the rest."""

    max_bodies_bytes: int = 256 * 1024 * 1024
    """Bytes of all bodies being read at one time; a request over it is told to come again (429)."""

    inline_output_bytes: int = 16 * 1024
    """Outputs over this many bytes are written beside the log, before the event that names them."""

    head_timeout_s: float = 10.0
    """Seconds in which the head of a request must arrive, from its first byte or the connection's beginning."""

    keepalive_s: float = 75.0
    """Seconds that a connection may stay open without a request."""

    body_idle_s: float = 10.0
    """Most seconds between two pieces of a body."""

    body_timeout_s: float = 120.0
    """Most seconds for a whole body."""

    write_stall_s: float = 30.0
    """Seconds that a peer may leave what was sent to it unread before its connection is cut."""

    max_head_line_bytes: int = 16 * 1024
    """Bytes of a request line, and of one header."""

    max_headers: int = 64
    """Headers of one request."""

    connections_per_address: int = 20_000
    """Connections that one address may hold open; 0: any number. Behind a proxy all come from the proxy's."""

    cache_bytes: int = 64 * 1024 * 1024
    """Bytes of memory for ready answers of runs that have ended."""

    big_outputs_at_once: int = 4
    """Whole outputs over 1 MiB that are unpacked at one time to give out one key of them."""

    ready_lag_s: float = 10.0
    """Seconds that the projector may be behind the log before `/readyz` says so."""

    ready_every_s: float = 2.0
    """Seconds between two looks at how far behind the projector is."""

    shutdown_s: float = 5.0
    """Seconds that open requests and sockets get to end once the gateway is told to stop."""

    partial_page_rounds: int = 8
    """Short pages of a narrow listing that are asked for and joined before one is answered as it is."""
