"""Cancel a run: whoever holds it is asked, and where nobody of ours does, it is cancelled here."""

from aiohttp import web

from runstore.core.event import Event
from runstore.core.ids import RunId
from runstore.core.principal import Principal
from runstore.core.run import Run
from runstore.core.status import Status
from runstore.gateway.answers import load_answer, respond_run
from runstore.gateway.body import read_body
from runstore.gateway.context import Services, principal_of, services_of
from runstore.wire.event import encode_event

_BODY_BYTES = 64 * 1024


async def post_cancel(request: web.Request) -> web.StreamResponse:
    """Answer with the run that was asked to be cancelled."""
    services, principal = services_of(request), principal_of(request)
    await read_body(request, services, _BODY_BYTES)
    record = await services.resolver.load(principal, request.match_info["run_id"])
    had_ended = record.run.is_terminal
    run_id = await services.commit(cancel(services, principal, record.run))
    answer, cursor = await load_answer(services, principal, run_id)
    return respond_run(answer, cursor, status=200 if had_ended else 202)


async def cancel(services: Services, principal: Principal, run: Run) -> RunId:
    """Cancel a run that the caller may see; one that has ended stays as it is.

    Raises: StoreUnavailable.
    """
    if run.is_terminal or await services.store.served.ask_cancel(run.run_id):
        return run.run_id
    event = Event(
        run_id=run.run_id,
        status=Status.CANCELLED,
        project_name=run.project_name,
        error_message="cancelled on request",
        worker="gateway",
    )
    entry_id = await services.store.log.append(run.run_id, encode_event(event), may_write=principal.projects)
    await services.tail.passed(services.tail.partition_of(run.run_id), entry_id, services.config.fold_wait_s)
    return run.run_id
