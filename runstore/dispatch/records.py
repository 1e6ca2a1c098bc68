"""What a worker tells about itself, and what it holds when it has claimed a run."""

from typing import Annotated

import msgspec

from runstore.core.event import RunRequest
from runstore.core.ids import RunId


class ServedProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project that a worker serves, and the terms of its runs."""

    name: str
    """The project's name."""

    attempts: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How often a run is begun when its worker is lost. Default 1: never again."""

    timeout_s: float = 600.0
    """How long a run may take that was asked for without a `timeout_s`. Seconds; default 600."""

    grace_s: float = 10.0
    """How long a run may take to end after it was told to. Seconds; default 10."""


class DispatchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker holds its runs."""

    name: str = "worker"
    """What the worker is called in leases, up to 200 characters."""

    lease_ms: Annotated[int, msgspec.Meta(ge=100)] = 15_000
    """Milliseconds after which a run whose holder is silent goes to another attempt; a third of it is a heartbeat."""

    prepare_s: float = 1_800.0
    """Seconds that a claim may take to begin, above the run's own time, before the run ends as `timed_out`."""

    deadline_slack_s: float = 30.0
    """Seconds above timeout and grace before a run whose holder lives but does not end it is `timed_out`."""

    recheck_s: float = 30.0
    """Seconds after which an idle worker looks at all queues although nothing was offered."""

    register_every_s: float = 15.0
    """Seconds after which the worker says again which projects it serves, as it does when Redis is back: it may be
    another one, or empty."""

    block_ms: int = 5_000
    """Milliseconds that one wait for signals takes at most; a Redis that is gone without a word is noticed after these
    and `timeout_s`."""

    max_backoff_s: float = 1.0
    """Seconds to wait at most before Redis is asked again after it was away."""

    timeout_s: float = 5.0
    """Seconds that Redis may take to answer."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is ours to execute, for as long as its lease is renewed."""

    run_id: RunId
    project: ServedProject
    request: RunRequest
    attempt: int
    token: str

    @property
    def timeout_s(self) -> float:
        """How long the run may take: the request's word, else the project's."""
        return self.request.timeout_s if self.request.timeout_s is not None else self.project.timeout_s
