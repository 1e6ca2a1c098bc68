"""The run: what the fold makes of its events, and the history it keeps of them."""

import msgspec

from runstore.core.event import EntryId, OutputRef, Progress
from runstore.core.ids import RunId
from runstore.core.status import TERMINAL, Status


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One run as it stands.

    Units: `_us` microseconds since 1970 UTC; `created_ms` the stream's milliseconds at the first event.
    `recorded_ms` is the stream's time of the last applied event. `output` names the winner's payload;
    `late_output` the payload of a later, ignored terminal event, kept where the winner left none.
    """

    run_id: RunId
    project_name: str
    status: Status
    created_ms: int
    recorded_ms: int
    run_number: int | None = None
    commit_sha: str | None = None
    started_us: int | None = None
    finished_us: int | None = None
    error_message: str | None = None
    attempt: int = 1
    output: OutputRef | None = None
    late_output: OutputRef | None = None
    tags: tuple[str, ...] = ()
    progress: Progress | None = None
    traceparent: str | None = None
    fingerprint: str = ""
    events: int = 0
    ignored: int = 0

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL


def end_ms(run: Run) -> int:
    """Return when a run ended, as a listing's `finished_after` counts it: never before it was recorded.

    Units: milliseconds, rounded up.
    """
    return max(run.recorded_ms, -(-(run.finished_us or 0) // 1000))


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True, array_like=True, omit_defaults=True, gc=False):
    """One event of a run's history, as short as it can be kept.

    `ignored` is why the event changed nothing, empty for an event that was applied.
    """

    ms: int
    seq: int
    status: Status
    at_us: int
    attempt: int = 1
    ignored: str = ""
    worker: str | None = None
    error_message: str | None = None
    event_id: str | None = None

    @property
    def entry_id(self) -> EntryId:
        """The place of the event in its partition's stream."""
        return EntryId(self.ms, self.seq)
