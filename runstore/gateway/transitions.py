"""Publish over HTTP, for workers with no way to Redis: one event, as it would be written to the log.

What a caller may not write is refused as if the run did not exist, in the same words: nothing is told.
"""

from typing import Annotated, Any
from uuid import uuid4

import msgspec
from aiohttp import web

from runstore.core.cursor import Place
from runstore.core.errors import InvalidRequest, InvalidRunId, RunNotFound, StoreUnavailable
from runstore.core.event import Event
from runstore.core.ids import RunId, parse_run_id
from runstore.core.principal import Principal
from runstore.core.status import Status
from runstore.gateway.answers import CURSOR, respond_json
from runstore.gateway.body import read_body
from runstore.gateway.context import Services, principal_of, services_of
from runstore.gateway.headers import read_trace
from runstore.telemetry import begin
from runstore.wire.cursor import encode_cursor
from runstore.wire.event import (
    Commit,
    ProgressJson,
    ShortText,
    Tags,
    decode_event,
    encode_event,
)
from runstore.wire.schema import CursorText, ProjectName, RunIdText, TimeText, WholeRunId
from runstore.wire.views import encode


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a published event: its id, and the place from which on every answer shows it."""

    run_id: RunIdText
    event_id: str
    cursor: CursorText


class PublicOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An output as anybody may publish it; what is left out is empty. `outputs` is any JSON."""

    status: Status | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    outputs: Any = None


class PublicEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as anybody may publish it. `run_id` may be left out here; unknown fields are kept out, not refused."""

    status: Status
    run_id: WholeRunId | None = None
    project_name: ProjectName | None = None
    at: TimeText | None = None
    commit_sha: Commit | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    error_message: str | None = None
    output: PublicOutput | None = None
    event_id: ShortText | None = None
    tags: Tags | None = None
    progress: ProgressJson | None = None
    worker: ShortText | None = None
    traceparent: str | None = None


async def post_transition(request: web.Request) -> web.StreamResponse:
    """Answer with the place of the event that was published."""
    services, principal = services_of(request), principal_of(request)
    run_id = await _find(services, principal, request.match_info["run_id"])
    config = services.config
    body = await read_body(request, services, config.max_event_body_bytes)
    event, unknown_fields = decode_event(body, trusted=False, run_id=run_id, limits=config.event_limits)
    if event.run_id != run_id:
        raise InvalidRequest("the run_id in the body is another than the one in the address: leave it out")
    if event.event_id is None:
        event = msgspec.structs.replace(event, event_id=str(uuid4()))
    parent = event.traceparent or read_trace(request)
    with begin("runstore.publish", parent, kind="server", run_id=run_id, status=event.status.value) as span:
        event = msgspec.structs.replace(event, traceparent=span.traceparent or parent)
        published = await services.commit(publish(services, principal, event, unknown_fields))
    return respond_json(encode(published), status=202, headers={CURSOR: published.cursor})


async def publish(services: Services, principal: Principal, event: Event, unknown_fields: int) -> Published:
    """Write an event to the log, its output beside it where that is large, and wait until it is folded.

    `unknown_fields` were kept out of it: the projector counts them with those that it meets itself.

    Raises: RunNotFound where the caller may not write the run; StoreUnavailable.
    """
    run_id = event.run_id
    await _check_may_write(services, principal, event)
    if event.output is not None and len(event.output) > services.config.inline_output_bytes:
        ref = await services.store.outputs.write(run_id, event.output)
        event = msgspec.structs.replace(event, output=None, output_ref=ref)
    entry_id = await services.store.log.append(
        run_id, encode_event(event, unknown_fields=unknown_fields), may_write=principal.projects
    )
    tail, partition = services.tail, services.tail.partition_of(run_id)
    try:
        await tail.passed(partition, entry_id, services.config.fold_wait_s)
        cursor = tail.cursor_for(run_id)
    except StoreUnavailable:
        # it is in the log and will be folded: the event's own place waits for that
        cursor = (Place(partition=partition, epoch=tail.place(partition).epoch, entry=entry_id),)
    assert event.event_id is not None
    return Published(run_id=run_id, event_id=event.event_id, cursor=encode_cursor(cursor))


async def _find(services: Services, principal: Principal, text: str) -> RunId:
    """Name the run that an address is about: any run by its whole id, one that is known by a prefix of it too."""
    try:
        return parse_run_id(text)
    except InvalidRunId:
        return await services.resolver.resolve(principal, text)


async def _check_may_write(services: Services, principal: Principal, event: Event) -> None:
    # never out of the cache, whose quick answer would tell of a run that the caller may not read
    record = await services.lookup.fresh(event.run_id)
    owner = record.run.project_name if record is not None else event.project_name
    named = event.project_name
    if owner is None or not principal.reaches(owner) or (named is not None and named != owner):
        raise RunNotFound(
            f"no run {event.run_id} that this token may write; the first event of a run must have a project_name"
        )
