"""The port of the tools over the client: the same tools at any gateway, from any machine."""

import asyncio
from typing import Any

import msgspec

from runstore.client.asynchronous import AsyncClient
from runstore.client.run import Run
from runstore.core.errors import Forbidden
from runstore.core.event import Progress
from runstore.core.status import Status
from runstore.mcp.arguments import ListRuns, RunProject
from runstore.mcp.port import Note, Payload, Times, check_size, describe, output_path


class ClientPort:
    """What the client's token may do at its gateway."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get_run(self, run_id: str, *, wait_s: float, note: Note) -> bytes:
        """Look a run up, held until it has ended or `wait_s` is over."""
        return (await self._follow(await self._client.get_run(run_id), wait_s, note)).to_json()

    async def get_output(self, run_id: str, name: str | None, most_bytes: int) -> Payload:
        """Read one output of a run, or all that it left."""
        whole_id = (await self._client.get_run(run_id)).run_id
        left: Any = await (self._client.output(whole_id) if name is None else self._client.output(whole_id, name))
        text = msgspec.json.encode(left)
        check_size(len(text), most_bytes, output_path(whole_id, name))
        return Payload(whole_id, text)

    async def list_runs(self, asked: ListRuns) -> bytes:
        """List a page of runs."""
        filters: dict[str, Any] = {}
        for name, value in asked.filters:
            filters.setdefault(name, []).append(value)
        once = {name: values if name in {"status", "tag"} else values[0] for name, values in filters.items()}
        return msgspec.json.encode(await self._client.list_page(limit=asked.limit, cursor=asked.cursor, **once))

    async def run(self, asked: RunProject, *, traceparent: str | None, wait_s: float, note: Note) -> bytes:
        """Ask for a run, and answer as it stands when it has ended or `wait_s` is over."""
        run = await self._client.run(
            asked.project_name,
            asked.given_inputs,
            timeout_s=asked.timeout_s,
            queue_timeout_s=asked.queue_timeout_s,
            commit_sha=asked.commit_sha,
            branch=asked.branch,
            tags=asked.tags or (),
            run_id=asked.run_id,
            idempotency_key=asked.idempotency_key,
            traceparent=traceparent,
        )
        try:
            return (await self._follow(run, wait_s, note)).to_json()
        except Forbidden:
            # a token that may write only: the run was made, and its caller cannot watch it
            return run.to_json()

    async def cancel(self, run_id: str) -> bytes:
        """Ask for a run to be cancelled, and answer as it stands."""
        return (await self._client.cancel(run_id)).to_json()

    async def times(self, run_id: str) -> Times:
        """Say when a run was first heard of, and when it last moved on."""
        events = [event for event in await self._client.events(run_id) if not event.ignored]
        return Times(events[0].recorded_at, events[-1].recorded_at)

    async def _follow(self, run: Run, wait_s: float, note: Note) -> Run:
        if run.is_terminal or not wait_s:
            return run
        status = run.status
        note(status)

        def on_progress(_: str, progress: Progress) -> None:
            note(describe(Status.RUNNING, progress))

        watch = self._client.watch(run.run_id, events="all", on_progress=on_progress)
        try:
            async with asyncio.timeout(wait_s) as limit, watch:
                async for news in watch:
                    run = news
                    if run.status is not status:
                        status = run.status
                        note(status)
        except TimeoutError:
            if not limit.expired():
                raise
        return run
