"""How a run ended, as its terminal event tells it."""

import signal
from typing import Any, assert_never

import msgspec

from runstore import Status
from runstore.core.cap import Output, cap
from runstore.core.event import MAX_OUTPUT_BYTES
from runstore.wire.event import encode_output
from runstore_worker.outputs import Unreadable, text
from runstore_worker.process import Cancelled, Exited, Logs, NotStarted, Outcome, Signalled, TimedOut
from runstore_worker.tail import Tail

MOST_REASON = 1000


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal status, the reason where it is no success, and what the run left."""

    status: Status
    reason: str | None = None
    output: bytes | None = None


def judge(outcome: Outcome, outputs: dict[str, Any] | Unreadable, timeout_s: float) -> Ending:
    """Say how a run ended, without what it left."""
    match outcome:
        case Exited(code=0) if isinstance(outputs, Unreadable):
            return failed(outputs.reason)
        case Exited(code=0):
            return Ending(status=Status.SUCCESS)
        case Exited(code=code):
            return failed(f"exit code {code}")
        case Signalled(signal=number):
            return failed(f"killed by {_name(number)}")
        case TimedOut():
            return Ending(status=Status.TIMED_OUT, reason=f"no end within {timeout_s:g} s")
        case Cancelled():
            return cancelled()
        case NotStarted(reason=reason):
            return failed(reason)
        case _:
            assert_never(outcome)


def failed(reason: str) -> Ending:
    """End as failed."""
    return Ending(status=Status.FAILED, reason=reason.encode("utf-8", "backslashreplace").decode()[:MOST_REASON])


def cancelled() -> Ending:
    """End as cancelled."""
    return Ending(status=Status.CANCELLED, reason="cancelled on request")


def with_output(ending: Ending, outcome: Outcome, outputs: dict[str, Any] | Unreadable, logs: Logs) -> Ending:
    """Add what the run left, cut to what an output may hold. Takes its time and memory where that is much."""
    output = Output(
        status=ending.status,
        exit_code=outcome.code if isinstance(outcome, Exited) else None,
        stdout=_text(logs.stdout),
        stderr=_text(logs.stderr),
        outputs=msgspec.Raw(b"null" if isinstance(outputs, Unreadable) else msgspec.json.encode(outputs)),
    )
    capped, _ = cap(output, MAX_OUTPUT_BYTES)
    return msgspec.structs.replace(ending, output=encode_output(capped))


def _text(tail: Tail) -> str:
    return text(tail.read(), cut=tail.dropped_bytes > 0)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
