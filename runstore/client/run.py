"""What the client hands out: runs with their ten fields, runs in a listing, events of a history."""

from typing import Any, Final

import msgspec

from runstore.core.status import TERMINAL, Status

_ENCODER: Final = msgspec.json.Encoder()


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left behind. `outputs` is what its model wrote, any JSON."""

    status: Status
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    outputs: Any = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run as it stands: the ten fields of the contract, in its order.

    Units: times are ISO 8601 in UTC, with `+00:00`. `output` is set where the run ended in success.
    """

    run_id: str
    run_number: int | None
    project_name: str
    status: Status
    commit_sha: str | None
    started_at: str | None
    finished_at: str | None
    error_message: str | None
    output: Output | None
    truncated: bool

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL

    def to_json(self) -> bytes:
        """Write the run as every interface does: the ten fields as compact UTF-8 JSON."""
        return _ENCODER.encode(self)


class ListedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a listing: without its output, with when it was created and its tags."""

    run_id: str
    run_number: int | None
    project_name: str
    status: Status
    commit_sha: str | None
    started_at: str | None
    finished_at: str | None
    error_message: str | None
    truncated: bool
    created_at: str
    tags: tuple[str, ...] = ()

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL

    def to_json(self) -> bytes:
        """Write the item as the listing has it, as compact UTF-8 JSON."""
        return _ENCODER.encode(self)


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing, newest first; `next_cursor` None: there is nothing after it."""

    runs: tuple[ListedRun, ...]
    next_cursor: str | None = None


class RunEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a run's history. `reason` says why an ignored one changed nothing."""

    status: Status
    at: str
    recorded_at: str
    attempt: int = 1
    ignored: bool = False
    reason: str | None = None
    worker: str | None = None
    error_message: str | None = None
    event_id: str | None = None


class RunToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token for one run, read-only, and when it ends: what a browser is given to watch that run."""

    token: str
    run_id: str
    expires_at: str

    def __repr__(self) -> str:
        return f"RunToken(run_id={self.run_id!r}, expires_at={self.expires_at!r})"


decode_run: Final = msgspec.json.Decoder(Run).decode
decode_output: Final = msgspec.json.Decoder(Output).decode
decode_page: Final = msgspec.json.Decoder(RunPage).decode
decode_token: Final = msgspec.json.Decoder(RunToken).decode


class _Events(msgspec.Struct, frozen=True):
    events: tuple[RunEvent, ...]


_EVENTS: Final = msgspec.json.Decoder(_Events | tuple[RunEvent, ...])


def decode_events(text: bytes) -> tuple[RunEvent, ...]:
    """Read the history of a run."""
    told = _EVENTS.decode(text)
    return told.events if isinstance(told, _Events) else told
