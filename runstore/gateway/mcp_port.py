"""The port of the tools over a gateway's own services: what HTTP does, for one caller."""

from collections.abc import Sequence
from contextlib import nullcontext

from multidict import MultiDict

from runstore.core.errors import Forbidden
from runstore.core.principal import Scope
from runstore.core.times import to_iso
from runstore.feed import Push, Rollback
from runstore.gateway.answers import load_answer
from runstore.gateway.cancel import cancel
from runstore.gateway.context import Caller, Services
from runstore.gateway.outputs import find_output, read_named, read_whole
from runstore.gateway.runs import load_page, read_listing, wait_for_end
from runstore.gateway.submit import check, submit
from runstore.mcp.arguments import ListRuns, RunProject
from runstore.mcp.port import Note, Payload, Times, check_size, describe, output_path
from runstore.wire.views import encode


class GatewayPort:
    """What one caller may do here."""

    def __init__(self, services: Services, caller: Caller, traceparent: str | None) -> None:
        self._services = services
        self._caller = caller
        self._principal = caller.principal
        self._traceparent = traceparent

    async def get_run(self, run_id: str, *, wait_s: float, note: Note) -> bytes:
        """Look a run up, held until it has ended or `wait_s` is over."""
        self._need(Scope.READ)
        with self._services.holds.hold(self._principal) if wait_s else nullcontext():
            return await self._answer(run_id, wait_s, note)

    async def get_output(self, run_id: str, name: str | None, most_bytes: int) -> Payload:
        """Read one output of a run, or all that it left."""
        self._need(Scope.READ)
        services = self._services
        run = (await services.resolver.load(self._principal, run_id)).run
        ref = await find_output(services, run)
        if name is None:
            check_size(ref.output_bytes, most_bytes, output_path(run.run_id, None))
            return Payload(run.run_id, await read_whole(services, run, ref))
        text = await read_named(services, run, ref, name)
        check_size(len(text), most_bytes, output_path(run.run_id, name))
        return Payload(run.run_id, text)

    async def list_runs(self, asked: ListRuns) -> bytes:
        """List a page of runs."""
        self._need(Scope.READ)
        listing = read_listing(_Query(asked), self._principal)
        return encode(await load_page(self._services, listing))

    async def run(self, asked: RunProject, *, traceparent: str | None, wait_s: float, note: Note) -> bytes:
        """Ask for a run, and answer as it stands when it has ended or `wait_s` is over."""
        self._need(Scope.WRITE)
        services = self._services
        submission = check(asked, services.config.max_inputs_bytes, traceparent or self._traceparent)
        # whoever may not wait is told before anything is run
        with services.holds.hold(self._principal) if wait_s else nullcontext():
            run_id = await services.commit(submit(services, self._principal, submission, asked.idempotency_key))
            return await self._answer(run_id, wait_s, note)

    async def cancel(self, run_id: str) -> bytes:
        """Ask for a run to be cancelled, and answer as it stands."""
        self._need(Scope.WRITE)
        services = self._services
        record = await services.resolver.load(self._principal, run_id)
        cancelled = await services.commit(cancel(services, self._principal, record.run))
        return (await load_answer(services, self._principal, cancelled))[0].body

    async def times(self, run_id: str) -> Times:
        """Say when a run was first heard of, and when it last moved on."""
        run = (await self._services.resolver.load(self._principal, run_id)).run
        return Times(to_iso(run.created_ms * 1000), to_iso(run.recorded_ms * 1000))

    async def _answer(self, text: str, wait_s: float, note: Note) -> bytes:
        services = self._services
        answer, _ = await load_answer(services, self._principal, text)
        run = answer.record.run
        if not wait_s or run.is_terminal:
            return answer.body
        ear = _Ear(note)
        services.tail.hub.join(ear, run_ids=(run.run_id,))
        note(describe(run.status, run.progress))
        try:
            await wait_for_end(services, self._caller, run.run_id, min(wait_s, services.config.max_wait_s))
        finally:
            services.tail.hub.leave(ear, run_ids=(run.run_id,))
        return (await load_answer(services, self._principal, run.run_id))[0].body

    def _need(self, scope: Scope) -> None:
        if not self._principal.may(scope):
            raise Forbidden(f"the token lacks the scope {scope.value}")


class _Ear:
    """Hears how a run stands, for whoever waits for its end."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def hear(self, pushes: Sequence[Push]) -> None:
        run = pushes[-1].run
        self._note(describe(run.status, run.progress))

    def rolled_back(self, rollback: Rollback) -> None:
        """Hear nothing: the wait itself looks again."""


class _Query:
    """The arguments of a listing, in place of a request that has them as query parameters."""

    def __init__(self, asked: ListRuns) -> None:
        self.query = MultiDict([*asked.filters, ("limit", str(asked.limit))])
        if asked.cursor is not None:
            self.query.add("cursor", asked.cursor)
