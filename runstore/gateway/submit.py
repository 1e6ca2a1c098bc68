"""Ask for a run: check what was asked, make it one run however often it is asked, and answer once it can be found."""

import re
from contextlib import nullcontext
from hashlib import sha256
from typing import Final
from uuid import uuid4

import msgspec
from aiohttp import web

from runstore.core.errors import (
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    PayloadTooLarge,
    StoreUnavailable,
)
from runstore.core.event import MAX_JSON_DEPTH, Event, RunRequest
from runstore.core.ids import RunId, check_project_name, derive_run_id, parse_run_id
from runstore.core.principal import Principal
from runstore.core.status import Status
from runstore.gateway.answers import load_answer, respond_run
from runstore.gateway.body import read_body
from runstore.gateway.context import CALLER, Services, services_of
from runstore.gateway.headers import read_idempotency_key, read_trace, read_wait
from runstore.gateway.runs import wait_for_end
from runstore.telemetry import begin
from runstore.wire.event import encode_event
from runstore.wire.fields import read_fields
from runstore.wire.record import Record
from runstore.wire.request import RunBody


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request to run. `fingerprint` is equal for equal requests, however they were written."""

    project_name: str
    request: RunRequest
    tags: tuple[str, ...]
    run_id: RunId | None
    traceparent: str | None = None


_BODY: Final = msgspec.json.Decoder(RunBody)
_SORTED: Final = msgspec.json.Encoder(order="sorted")
_COMPACT: Final = msgspec.json.Encoder()
_SHA: Final = re.compile(r"[0-9a-f]{7,40}")
_FULL_SHA_CHARACTERS: Final = 40
_NO_BRANCH: Final = re.compile(r"^[-/.]|\.\.|//|/\.|@\{|[\x00-\x20\x7f~^:?*\[\\]|\.lock(/|$)|[/.]$|^@$")


async def post_run(request: web.Request) -> web.StreamResponse:
    """Answer with the run that was asked for."""
    services, caller = services_of(request), request[CALLER]
    config = services.config
    wait_s = read_wait(request, config.max_wait_s)
    key = read_idempotency_key(request)
    body = decode_body(await read_body(request, services, config.max_run_body_bytes), config.max_json_depth)
    submission = check(body, config.max_inputs_bytes, read_trace(request))
    status = 202
    # whoever may not wait is told before anything is run
    with services.holds.hold(caller.principal) if body.mode == "sync" else nullcontext():
        run_id = await services.commit(submit(services, caller.principal, submission, key))
        if body.mode == "sync":
            wait_s = wait_s or config.max_wait_s
            await wait_for_end(services, caller, run_id, wait_s)
    answer, cursor = await load_answer(services, caller.principal, run_id)
    if body.mode == "sync" and answer.record.run.is_terminal:
        status = 200
    response = respond_run(answer, cursor, status=status, location=True)
    if body.mode == "sync":
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    return response


def decode_body(text: bytes, max_depth: int = MAX_JSON_DEPTH) -> RunBody:
    """Read a request to run.

    Raises: InvalidRequest, naming the nearest field where one is not known.
    """
    return read_fields(text, _BODY, max_depth=max_depth)


def check(body: RunBody, max_inputs_bytes: int, traceparent: str | None = None) -> Submission:
    """Check a request to run by the rules that a schema cannot say.

    Raises: InvalidRequest, InvalidRunId, PayloadTooLarge.
    """
    check_project_name(body.project_name)
    if body.commit_sha is not None and body.branch is not None:
        raise InvalidRequest("give commit_sha or branch, not both")
    commit_sha = body.commit_sha.lower() if body.commit_sha is not None else None
    if commit_sha is not None and not _SHA.fullmatch(commit_sha):
        raise InvalidRequest("commit_sha must be 7 to 40 hex digits")
    if body.branch is not None and _NO_BRANCH.search(body.branch):
        raise InvalidRequest(f"{body.branch[:60]!r} is no name that git takes for a branch")
    tags = tuple(dict.fromkeys(body.tags or ()))
    asked = RunRequest(
        inputs=msgspec.Raw(_inputs(body, max_inputs_bytes)),
        commit_sha=commit_sha,
        branch=body.branch,
        timeout_s=body.timeout_s,
        queue_timeout_s=body.queue_timeout_s,
    )
    return Submission(
        project_name=body.project_name,
        request=msgspec.structs.replace(asked, fingerprint=_fingerprint(body.project_name, asked, tags)),
        tags=tags,
        run_id=parse_run_id(body.run_id) if body.run_id is not None else None,
        traceparent=traceparent,
    )


def _inputs(body: RunBody, max_bytes: int) -> bytes:
    compact = _COMPACT.encode(body.given_inputs or {})
    if len(compact) > max_bytes:
        raise PayloadTooLarge(f"inputs of {len(compact)} bytes are over the limit of {max_bytes}")
    return compact


def _fingerprint(project_name: str, asked: RunRequest, tags: tuple[str, ...]) -> str:
    canonical = _SORTED.encode(
        (
            project_name,
            msgspec.json.decode(asked.inputs),
            asked.commit_sha,
            asked.branch,
            float(asked.timeout_s) if asked.timeout_s is not None else None,
            float(asked.queue_timeout_s) if asked.queue_timeout_s is not None else None,
            tags,
        )
    )
    return sha256(canonical).hexdigest()[:32]


async def submit(services: Services, principal: Principal, submission: Submission, key: str | None) -> RunId:
    """Record a run that was asked for, once for each key, and return its id when everybody finds it.

    Raises: Forbidden, InvalidRequest, UnknownProject, IdempotencyConflict, StoreUnavailable.
    """
    project_name = submission.project_name
    if not principal.reaches(project_name) or principal.run_id is not None:
        raise Forbidden(f"the token may not run the project {project_name!r}")
    if key is not None and submission.run_id is not None:
        raise InvalidRequest("give run_id or Idempotency-Key, not both: each works as the key")
    run_id = submission.run_id
    if key is not None:
        run_id = derive_run_id(principal.name, project_name, key)
    if run_id is not None:
        known = await services.lookup.record(run_id)
        if known is not None:
            return _same(known, submission)
    await services.served.check(project_name, principal)
    run_id = run_id or RunId(str(uuid4()))
    with begin("runstore.submit", submission.traceparent, kind="server", run_id=run_id, project=project_name) as span:
        event = Event(
            run_id=run_id,
            status=Status.PENDING,
            project_name=project_name,
            commit_sha=_full(submission.request.commit_sha),
            tags=submission.tags,
            traceparent=span.traceparent or submission.traceparent,
            numbered=True,
            request=submission.request,
        )
        entry_id = await services.store.log.append(run_id, encode_event(event), may_write=principal.projects)
        await services.tail.passed(services.tail.partition_of(run_id), entry_id, services.config.fold_wait_s)
    folded = await services.lookup.record(run_id)
    if folded is None:
        raise StoreUnavailable("the run could not be recorded: see the dead letters")
    return _same(folded, submission)


def _same(known: Record, submission: Submission) -> RunId:
    if known.run.fingerprint != submission.request.fingerprint or known.run.project_name != submission.project_name:
        raise IdempotencyConflict("the key (or run_id) was used for another request: choose a new one")
    return known.run.run_id


def _full(commit_sha: str | None) -> str | None:
    return commit_sha if commit_sha is not None and len(commit_sha) == _FULL_SHA_CHARACTERS else None
