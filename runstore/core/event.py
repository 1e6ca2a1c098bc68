"""Events: facts about a run as publishers tell them, and entries: events with their place in a stream.

What comes by the ten thousand and holds no mutable part can be in no cycle, so the garbage collector is kept away from
it (`gc=False`): to walk over it took a quarter of a projector's time.
"""

from typing import Final, NamedTuple

import msgspec

from runstore.core.ids import RunId
from runstore.core.status import Status

MAX_TAGS: Final = 20
MAX_TAG_CHARACTERS: Final = 64
MAX_EVENT_BYTES: Final = 256 * 1024
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
MAX_INPUTS_BYTES: Final = 1024 * 1024
MAX_JSON_DEPTH: Final = 64


class EntryId(NamedTuple):
    """A place in an events stream. Compared as two numbers, never as text ("9-0" is before "10-0")."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


class OutputRef(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Where an output lies: beside the log, under the run's own keys.

    Units: `output_bytes` counts the full payload's compact JSON; a chunk holds at most 1 MiB of it.
    """

    token: bytes
    output_bytes: int
    chunks: int
    truncated: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a running run is: a fraction from 0 to 1 and a word about it."""

    fraction: float | None = None
    message: str | None = None


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a worker needs to execute a run that was asked for. `inputs` is a JSON object's bytes."""

    inputs: msgspec.Raw = msgspec.Raw(b"{}")
    commit_sha: str | None = None
    branch: str | None = None
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    fingerprint: str = ""
    traceparent: str | None = None


class Hold(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """By whose lease a run is held that a publisher tracks.

    Units: `term_ms` is how long it lasts from a heartbeat on; 0: nobody holds the run from here on.
    """

    token: str
    worker: str
    term_ms: int


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One fact about a run, already checked.

    `output` is set where the payload came inline (the compact JSON of the five fields), `output_ref` where it was
    written beside the log. `numbered` asks for a `run_number`, `request` for a worker. `hold` is not told to the log:
    it is what a publisher does about the run's lease when it sends the event.
    """

    run_id: RunId
    status: Status
    project_name: str | None = None
    at_us: int | None = None
    commit_sha: str | None = None
    attempt: int | None = None
    error_message: str | None = None
    output: bytes | None = None
    output_ref: OutputRef | None = None
    event_id: str | None = None
    tags: tuple[str, ...] = ()
    progress: Progress | None = None
    worker: str | None = None
    traceparent: str | None = None
    numbered: bool = False
    request: RunRequest | None = None
    hold: Hold | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event with its place in its partition's stream.

    `may_write` names the projects that the publisher's token may write (None: every project), as the gateway
    stamped it.
    """

    entry_id: EntryId
    event: Event
    may_write: frozenset[str] | None = None


class Unreadable(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stream entry that is no event, and why."""

    entry_id: EntryId
    reason: str
