"""What the tools need of a runstore: in a gateway its services, elsewhere the SDK's client."""

from collections.abc import Callable
from typing import NamedTuple, Protocol
from urllib.parse import quote

from runstore.core.errors import PayloadTooLarge
from runstore.core.event import Progress
from runstore.mcp.arguments import ListRuns, RunProject

Note = Callable[[str], None]
"""Takes, in a few words, how a run stands that somebody waits for. It may not wait, or raise."""


class Payload(NamedTuple):
    """What a run left, or one output of it, as JSON."""

    run_id: str
    text: bytes


class Times(NamedTuple):
    """When a run was first heard of, and when it last moved on, as the contract writes times."""

    created_at: str
    updated_at: str


class ToolPort(Protocol):
    """Runs, as the caller of a tool may see and ask for them; answers about runs are JSON of the ten fields.

    Raises: every method may raise Unauthorized, Forbidden, RateLimited, StoreUnavailable; those that take a run id
    InvalidRunId, RunNotFound, AmbiguousRunId.
    """

    async def get_run(self, run_id: str, *, wait_s: float, note: Note) -> bytes:
        """Look a run up, held until it has ended or `wait_s` is over."""
        ...

    async def get_output(self, run_id: str, name: str | None, most_bytes: int) -> Payload:
        """Read one output of a run, or all that it left.

        Raises: OutputNotFound, PayloadTooLarge.
        """
        ...

    async def list_runs(self, asked: ListRuns) -> bytes:
        """List a page of runs.

        Raises: InvalidRequest.
        """
        ...

    async def run(self, asked: RunProject, *, traceparent: str | None, wait_s: float, note: Note) -> bytes:
        """Ask for a run, and answer as it stands when it has ended or `wait_s` is over.

        Raises: InvalidRequest, UnknownProject, IdempotencyConflict, PayloadTooLarge.
        """
        ...

    async def cancel(self, run_id: str) -> bytes:
        """Ask for a run to be cancelled, and answer as it stands."""
        ...

    async def times(self, run_id: str) -> Times:
        """Say when a run was first heard of, and when it last moved on."""
        ...


def describe(status: str, progress: Progress | None) -> str:
    """Say in a few words how a run stands."""
    if progress is None:
        return status
    parts = [f"{progress.fraction:.0%}"] if progress.fraction is not None else []
    parts += [progress.message] if progress.message else []
    return f"{status}: {', '.join(parts)}" if parts else status


def check_size(size: int, most_bytes: int, path: str) -> None:
    """Check that a payload is not too large for a tool.

    Raises: PayloadTooLarge, with the address where it can be read in pieces.
    """
    if size > most_bytes:
        raise PayloadTooLarge(
            f"it has {size} bytes, over the limit of {most_bytes} for a tool: the gateway gives it at GET {path}"
        )


def output_path(run_id: str, name: str | None) -> str:
    """Return where a gateway gives what a run left, or one output of it."""
    return f"/v1/runs/{run_id}/output" + (f"/{quote(name, safe='')}" if name is not None else "")
