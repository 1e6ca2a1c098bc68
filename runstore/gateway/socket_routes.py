"""The routes that push."""

from typing import Final

from runstore.core.principal import Scope
from runstore.gateway.history import RunEvents, get_events
from runstore.gateway.logs import get_logs
from runstore.gateway.route import Param, Reply, Route
from runstore.gateway.socket import open_socket

_RUN_ID: Final = Param(
    name="run_id",
    where="path",
    description="A run id, or a prefix of at least 4 hex digits (dashes optional, any case).",
)
_AFTER: Final = Param(
    name="after", where="query", description="A cursor: the answer is never from before it. Waits up to 5 s for that."
)
_LAST_EVENT_ID: Final = Param(
    name="Last-Event-ID", where="header", description="The id of the last event that was received, to go on after it."
)
_STREAM: Final = "With `Accept: text/event-stream` they come as server-sent events until the run has ended."
_PROBLEMS: Final = ("invalid_run_id", "run_not_found", "ambiguous_run_id", "cursor_lost", "not_acceptable")

PUSH_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/v1/runs/{run_id}/events",
        handler=get_events,
        summary=f"Read the events of a run. {_STREAM}",
        scope=Scope.READ,
        params=(_RUN_ID, _AFTER, _LAST_EVENT_ID),
        replies=(Reply(status=200, description="The events.", type=RunEvents, headers=("Runstore-Cursor",)),),
        problems=_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/runs/{run_id}/logs",
        handler=get_logs,
        summary=f"Read stdout and stderr of a run. {_STREAM}",
        scope=Scope.READ,
        params=(_RUN_ID, _AFTER, _LAST_EVENT_ID),
        replies=(
            Reply(status=200, description="What is there so far.", media="text/plain", headers=("Runstore-Cursor",)),
        ),
        problems=_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/ws",
        handler=open_socket,
        summary="Open a websocket, subprotocol runstore.v1.",
        scope=Scope.READ,
        is_websocket=True,
        replies=(Reply(status=101, description="The websocket.", media=None),),
        problems=("upgrade_required",),
    ),
)
"""Events, logs and the websocket; an app that serves them needs `install_streams`."""
