"""The table of routes: the router and the OpenAPI document are made from it, and nothing else answers."""

from typing import Annotated, Any, Final

import msgspec

from runstore.core.principal import Scope
from runstore.core.status import Status
from runstore.gateway.cancel import post_cancel
from runstore.gateway.health import Health, get_healthz, get_readyz
from runstore.gateway.history import RunEvents, get_events
from runstore.gateway.logs import get_logs
from runstore.gateway.mcp import McpError, McpMessage, post_mcp
from runstore.gateway.metrics import get_metrics
from runstore.gateway.openapi import get_openapi
from runstore.gateway.outputs import get_named_output, get_output
from runstore.gateway.pages import get_dashboard, get_static
from runstore.gateway.query import DEFAULT_LIMIT, MAX_LIMIT
from runstore.gateway.route import Param, Reply, Route
from runstore.gateway.run_token import MadeRunToken, RunTokenBody, post_run_token
from runstore.gateway.runs import get_run, list_runs
from runstore.gateway.socket import open_socket
from runstore.gateway.store_health import StoreHealth, get_store
from runstore.gateway.submit import post_run
from runstore.gateway.transitions import PublicEvent, Published, post_transition
from runstore.wire.event import Commit, Tag
from runstore.wire.request import RunBody
from runstore.wire.schema import CursorText, ProjectName, RunIdPrefix, TimeText
from runstore.wire.views import OutputView, RunPage, RunView

_RUN_ID: Final = Param(
    name="run_id",
    where="path",
    description="A run id, or a prefix of at least 4 hex digits (dashes optional, any case).",
    type=RunIdPrefix,
)
_PUBLISHED_RUN_ID: Final = Param(
    name="run_id",
    where="path",
    description="A whole run id, or for a run that is known a prefix of at least 4 hex digits.",
    type=RunIdPrefix,
)
_AFTER: Final = Param(
    name="after",
    where="query",
    description="A cursor: the answer is never from before it. Waits up to 5 s for that.",
    type=CursorText,
)
_IF_NONE_MATCH: Final = Param(name="If-None-Match", where="header", description="Entity tags; 304 where one matches.")
_PREFER: Final = Param(
    name="Prefer",
    where="header",
    description="wait=N (1 to 60): hold the answer until the run has ended or N seconds passed.",
)
_LAST_EVENT_ID: Final = Param(name="Last-Event-ID", where="header", description="Where an SSE stream goes on.")
_FIND: Final = ("invalid_run_id", "run_not_found", "ambiguous_run_id", "cursor_lost")
_RUN_HEADERS: Final = ("ETag", "Runstore-Cursor", "Preference-Applied")
_OUTPUT_HEADERS: Final = ("ETag", "Runstore-Cursor", "Accept-Ranges")
_POSTED_HEADERS: Final = ("Runstore-Cursor", "Location", "Preference-Applied")
_BODY: Final = ("payload_too_large", "request_timeout", "rate_limited")
_UNCHANGED: Final = Reply(status=304, description="Nothing changed.", media=None, headers=("ETag", "Runstore-Cursor"))

_SAME_FILE: Final = Reply(status=304, description="Nothing changed.", media=None, headers=("ETag",))


def _filter(name: str, description: str, type_: Any = str, *, repeated: bool = False) -> Param:
    return Param(name=name, where="query", description=description, type=type_, repeated=repeated)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/v1/runs/{run_id}",
        handler=get_run,
        summary="Look a run up.",
        scope=Scope.READ,
        for_run_token=True,
        params=(_RUN_ID, _AFTER, _IF_NONE_MATCH, _PREFER),
        replies=(Reply(status=200, description="The run.", type=RunView, headers=_RUN_HEADERS), _UNCHANGED),
        problems=_FIND,
    ),
    Route(
        method="GET",
        path="/v1/runs",
        handler=list_runs,
        summary="List runs, newest first.",
        scope=Scope.READ,
        params=(
            _filter("project_name", "Runs of this project.", ProjectName),
            _filter("status", "Runs in any of these statuses; empty means any.", Status, repeated=True),
            _filter("commit_sha", "Runs of this commit, or of commits that begin so.", Commit),
            _filter("tag", "Runs that have all of these tags.", Tag, repeated=True),
            _filter("created_after", "Runs created after this time.", TimeText),
            _filter("created_before", "Runs created before this time.", TimeText),
            _filter("finished_after", "Runs that ended, or were heard to have, after this time.", TimeText),
            _filter(
                "limit",
                f"Most runs of a page; {DEFAULT_LIMIT} unless told.",
                Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)],
            ),
            _filter("cursor", "next_cursor of the page before.", CursorText),
            _AFTER,
        ),
        replies=(Reply(status=200, description="A page.", type=RunPage, headers=("Runstore-Cursor",)),),
        problems=("cursor_lost",),
    ),
    Route(
        method="POST",
        path="/v1/runs",
        handler=post_run,
        summary="Ask for a run.",
        scope=Scope.WRITE,
        params=(
            Param(
                name="Idempotency-Key",
                where="header",
                description="The same key and body give the same run.",
                type=Annotated[str, msgspec.Meta(min_length=1, max_length=255)],
            ),
            _PREFER,
        ),
        body=RunBody,
        replies=(
            Reply(status=202, description="The run as it stands.", type=RunView, headers=_POSTED_HEADERS),
            Reply(
                status=200, description="The run, which has ended (mode sync).", type=RunView, headers=_POSTED_HEADERS
            ),
        ),
        problems=("unknown_project", "invalid_run_id", "idempotency_conflict", *_BODY),
    ),
    Route(
        method="POST",
        path="/v1/runs/{run_id}/cancel",
        handler=post_cancel,
        summary="Cancel a run.",
        scope=Scope.WRITE,
        params=(_RUN_ID,),
        replies=(
            Reply(
                status=202, description="The run, asked to be cancelled.", type=RunView, headers=("Runstore-Cursor",)
            ),
            Reply(status=200, description="The run, which had ended.", type=RunView, headers=("Runstore-Cursor",)),
        ),
        problems=("invalid_run_id", "run_not_found", "ambiguous_run_id", *_BODY),
    ),
    Route(
        method="POST",
        path="/v1/runs/{run_id}/token",
        handler=post_run_token,
        summary="Make a token for one run, read-only and short-lived, for a browser to watch it.",
        scope=Scope.READ,
        params=(_RUN_ID,),
        body=RunTokenBody,
        body_may_be_absent=True,
        replies=(Reply(status=200, description="The token, shown this once.", type=MadeRunToken),),
        problems=("invalid_run_id", "run_not_found", "ambiguous_run_id", *_BODY),
    ),
    Route(
        method="POST",
        path="/v1/runs/{run_id}/transitions",
        handler=post_transition,
        summary="Publish one event of a run.",
        scope=Scope.PUBLISH,
        params=(_PUBLISHED_RUN_ID,),
        body=PublicEvent,
        replies=(
            Reply(status=202, description="The event is in the log.", type=Published, headers=("Runstore-Cursor",)),
        ),
        problems=("invalid_run_id", "run_not_found", "ambiguous_run_id", *_BODY),
    ),
    Route(
        method="GET",
        path="/v1/runs/{run_id}/output",
        handler=get_output,
        summary="Read the full payload of a run, uncut.",
        scope=Scope.READ,
        for_run_token=True,
        params=(
            _RUN_ID,
            _AFTER,
            _IF_NONE_MATCH,
            Param(name="Range", where="header", description="One range of bytes."),
            Param(name="If-Range", where="header", description="The entity tag that the range is of."),
        ),
        replies=(
            Reply(status=200, description="The payload.", type=OutputView, headers=_OUTPUT_HEADERS),
            Reply(status=206, description="A range of it.", headers=(*_OUTPUT_HEADERS, "Content-Range")),
            _UNCHANGED,
        ),
        problems=(*_FIND, "output_not_found", "range_not_satisfiable"),
    ),
    Route(
        method="GET",
        path="/v1/runs/{run_id}/output/{name}",
        handler=get_named_output,
        summary="Read one key of a run's outputs, whole.",
        scope=Scope.READ,
        for_run_token=True,
        params=(
            _RUN_ID,
            Param(
                name="name", where="path", description="A key of `outputs`; its slashes need no encoding.", is_rest=True
            ),
            _AFTER,
            _IF_NONE_MATCH,
        ),
        replies=(
            Reply(status=200, description="Its value.", headers=("ETag", "Runstore-Cursor")),
            _UNCHANGED,
        ),
        problems=(*_FIND, "output_not_found"),
    ),
    Route(
        method="GET",
        path="/v1/runs/{run_id}/events",
        handler=get_events,
        summary="Read a run's transitions in order, the ignored ones marked; as SSE until the terminal one.",
        scope=Scope.READ,
        for_run_token=True,
        params=(_RUN_ID, _AFTER, _LAST_EVENT_ID),
        replies=(
            Reply(
                status=200,
                description="The events.",
                type=RunEvents,
                headers=("Runstore-Cursor",),
                stream="text/event-stream",
            ),
        ),
        problems=_FIND,
    ),
    Route(
        method="GET",
        path="/v1/runs/{run_id}/logs",
        handler=get_logs,
        summary="Read stdout and stderr as they come; as SSE until the run has ended.",
        scope=Scope.READ,
        for_run_token=True,
        params=(_RUN_ID, _AFTER, _LAST_EVENT_ID),
        replies=(
            Reply(
                status=200,
                description="What was written so far.",
                type=str,
                media="text/plain",
                headers=("Runstore-Cursor",),
                stream="text/event-stream",
            ),
        ),
        problems=_FIND,
    ),
    Route(
        method="GET",
        path="/v1/ws",
        handler=open_socket,
        summary="Open a websocket of the subprotocol runstore.v1.",
        scope=Scope.READ,
        for_run_token=True,
        is_websocket=True,
        params=(
            Param(
                name="Sec-WebSocket-Protocol",
                where="header",
                description="runstore.v1; beside it runstore.bearer.<token> where no Authorization header can be sent.",
            ),
        ),
        replies=(Reply(status=101, description="Messages follow.", media=None),),
        problems=("upgrade_required",),
    ),
    Route(
        method="POST",
        path="/mcp",
        handler=post_mcp,
        summary="Give an agent its tools: the Model Context Protocol, streamable HTTP without sessions.",
        body=McpMessage,
        counts_itself=True,
        replies=(
            Reply(status=200, description="A message, or a stream of them.", stream="text/event-stream"),
            Reply(status=202, description="A notification was taken.", media=None),
        ),
        problems=("not_found", *_BODY),
        errors=McpError,
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        handler=get_openapi,
        summary="This document.",
        for_run_token=True,
        replies=(Reply(status=200, description="The document."),),
    ),
    Route(
        method="GET",
        path="/v1/store",
        handler=get_store,
        summary="Ask how the store is, and which projects workers serve.",
        scope=Scope.READ,
        replies=(Reply(status=200, description="How it is.", type=StoreHealth),),
    ),
    Route(
        method="GET",
        path="/",
        handler=get_dashboard,
        summary="Open the dashboard.",
        is_open=True,
        params=(_IF_NONE_MATCH,),
        replies=(
            Reply(status=200, description="The page.", type=str, media="text/html", headers=("ETag",)),
            _SAME_FILE,
        ),
    ),
    Route(
        method="GET",
        path="/static/{name}",
        handler=get_static,
        summary="Load a file of the dashboard, or the client runstore.js that it uses.",
        is_open=True,
        params=(Param(name="name", where="path", description="Its name.", is_rest=True), _IF_NONE_MATCH),
        replies=(
            Reply(status=200, description="The file.", type=str, media="text/javascript", headers=("ETag",)),
            _SAME_FILE,
        ),
        problems=("not_found",),
    ),
    Route(
        method="GET",
        path="/healthz",
        handler=get_healthz,
        summary="Ask whether the process lives.",
        is_open=True,
        replies=(Reply(status=200, description="It does.", type=Health),),
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=get_readyz,
        summary="Ask whether the store can be reached and the projector keeps up.",
        is_open=True,
        replies=(Reply(status=200, description="Both.", type=Health),),
        problems=("store_unavailable",),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=get_metrics,
        summary="Read the numbers of this gateway, for Prometheus; who may is a setting.",
        is_open=True,
        replies=(Reply(status=200, description="The numbers.", type=str, media="text/plain"),),
        problems=("not_found", "unauthorized", "forbidden", "rate_limited", "store_unavailable"),
    ),
)
