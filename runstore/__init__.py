"""The run store that workers publish into and that everybody who waits for a run listens to."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"

if TYPE_CHECKING:
    from runstore.client import (
        AsyncClient,
        Client,
        ClientConfig,
        GatewayUnreachable,
        Run,
        UnexpectedAnswer,
        WaitTimeout,
    )
    from runstore.core.errors import (
        AmbiguousRunId,
        CursorLost,
        Forbidden,
        IdempotencyConflict,
        InvalidRequest,
        InvalidRunId,
        OutputNotFound,
        PayloadTooLarge,
        RateLimited,
        RunNotFound,
        RunstoreError,
        StoreUnavailable,
        Unauthorized,
        UnknownProject,
    )
    from runstore.core.status import Status
    from runstore.publish import AsyncPublisher, Publisher, PublisherConfig, current_run

__all__ = [
    "AmbiguousRunId",
    "AsyncClient",
    "AsyncPublisher",
    "Client",
    "ClientConfig",
    "CursorLost",
    "Forbidden",
    "GatewayUnreachable",
    "IdempotencyConflict",
    "InvalidRequest",
    "InvalidRunId",
    "OutputNotFound",
    "PayloadTooLarge",
    "Publisher",
    "PublisherConfig",
    "RateLimited",
    "Run",
    "RunNotFound",
    "RunstoreError",
    "Status",
    "StoreUnavailable",
    "Unauthorized",
    "UnexpectedAnswer",
    "UnknownProject",
    "WaitTimeout",
    "__version__",
    "current_run",
]

_CLIENT: Final = frozenset(
    {"AsyncClient", "Client", "ClientConfig", "GatewayUnreachable", "Run", "UnexpectedAnswer", "WaitTimeout"}
)
_PUBLISH: Final = frozenset({"AsyncPublisher", "Publisher", "PublisherConfig", "current_run"})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a client loads no Redis and a publisher no HTTP."""
    if name in _CLIENT:
        value = getattr(import_module("runstore.client"), name)
    elif name in _PUBLISH:
        value = getattr(import_module("runstore.publish"), name)
    elif name == "Status":
        value = import_module("runstore.core.status").Status
    elif name in __all__:
        value = getattr(import_module("runstore.core.errors"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
