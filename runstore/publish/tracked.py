"""A tracked run: what the work tells of itself, and which event its end is. Pure, but for the time it began."""

import asyncio
import concurrent.futures
import contextlib
import math
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from runstore.core.errors import RunstoreError
from runstore.core.event import MAX_JSON_DEPTH, Hold
from runstore.core.status import Status
from runstore.publish.event import encode
from runstore.wire.event import check_depth

_CANCELLED: Final = (asyncio.CancelledError, concurrent.futures.CancelledError, KeyboardInterrupt, GeneratorExit)
_MAX_REASON: Final = 1000
_MAX_LEAN: Final = 100_000
_MAX_REPR: Final = 10_000
_MAX_MESSAGE: Final = 1000
Notify = Callable[[dict[str, Any]], None]


class Asked(NamedTuple):
    """By whose lease a run is to be held; `answered` is done when it is, or cannot be for now."""

    hold: Hold
    answered: "concurrent.futures.Future[None]"


class TrackedRun:
    """The run of some tracked work. What is put here is published with its end.

    `outputs` may hold whatever can be written as JSON; a value that cannot is replaced by its repr, with a note in
    `stderr`. `exit_code` is for work that has one. `traceparent` is the trace that the run belongs to, if one was told.
    `is_cancelled` says that somebody cancelled the run, and is true a heartbeat later at most: the run has ended by
    then, and what its work makes of it is the work's to decide.
    """

    def __init__(
        self,
        run_id: str,
        project_name: str,
        notify: Notify,
        *,
        traceparent: str | None = None,
        on_cancel: Callable[[], object] | None = None,
    ) -> None:
        self.run_id = run_id
        self.project_name = project_name
        self.traceparent = traceparent
        self.outputs: Any = {}
        self.stdout = ""
        self.stderr = ""
        self.exit_code: int | None = None
        self.is_cancelled = False
        self.began = time.monotonic()
        self._notify = notify
        self._on_cancel = on_cancel

    def cancelled(self, *, before_it_began: bool) -> None:
        """Take note that the run was cancelled. For whoever holds it, from any thread."""
        self.is_cancelled = True
        if self._on_cancel is not None and not before_it_began:
            self._on_cancel()

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Tell how far the work is, and return at once; the newest replaces what was not sent yet.

        Never raises: a fraction is brought into 0 to 1, and trouble with the store is logged.
        """
        progress: dict[str, Any] = {}
        if fraction is not None and math.isfinite(fraction):
            progress["fraction"] = min(max(float(fraction), 0.0), 1.0)
        if message is not None:
            progress["message"] = clean(str(message))[:_MAX_MESSAGE]
        if progress:
            self._notify(progress)


def status_of(error: BaseException | None) -> Status:
    """Return the status that work ends in which raised this (None: nothing)."""
    if error is None or (isinstance(error, SystemExit) and error.code in {None, 0}):
        return Status.SUCCESS
    if isinstance(error, TimeoutError):
        return Status.TIMED_OUT
    return Status.CANCELLED if isinstance(error, _CANCELLED) else Status.FAILED


def reason_of(error: BaseException) -> str:
    """Say in one line why work ended: the error's name and what it says."""
    try:
        said = " ".join(clean(str(error)).split())
    except Exception:  # noqa: BLE001 - an error that cannot be shown is an error all the same
        said = ""
    name = type(error).__name__
    return f"{name}: {said}"[:_MAX_REASON] if said else name


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How some work ended."""

    status: Status
    """One of the terminal ones."""
    reason: str | None = None
    """One line for `error_message`."""
    stderr: str = ""
    """What goes behind the run's own stderr: a traceback."""
    exit_code: int | None = None
    """For work that has one and did not tell it itself."""


def ending_of(error: BaseException | None) -> Ending:
    """Say how work ended that raised this (None: nothing)."""
    status = status_of(error)
    exit_code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else None
    if error is None or status is Status.SUCCESS:
        return Ending(status=status, exit_code=exit_code)
    stderr = clean("".join(traceback.format_exception(error)))
    return Ending(status=status, reason=reason_of(error), stderr=stderr, exit_code=exit_code)


def output_of(run: TrackedRun, ending: Ending) -> dict[str, Any]:
    """Return what the run leaves behind: all that was put there, made fit to be written, and the traceback."""
    outputs, notes = writable(run.outputs)
    parts = [clean(str(run.stderr)), clean(ending.stderr)]
    return {
        "exit_code": run.exit_code if run.exit_code is not None else ending.exit_code,
        "stdout": clean(str(run.stdout)),
        "stderr": _joined([*parts, *(f"runstore: {note}\n" for note in notes)]),
        "outputs": outputs,
    }


def lean_output_of(ending: Ending, note: str) -> dict[str, Any]:
    """Return what is left of an output that cannot be told: the end of the traceback, and why."""
    return {"exit_code": ending.exit_code, "stderr": _joined([ending.stderr[-_MAX_LEAN:], f"runstore: {note}\n"])}


def writable(outputs: Any) -> tuple[Any, list[str]]:
    """Return outputs that can be written as JSON, with a note for each that had to be replaced by its repr."""
    why = _unwritable(outputs)
    if why is None:
        return outputs, []
    if isinstance(outputs, Mapping) and not isinstance(outputs, dict):
        with contextlib.suppress(Exception):
            return writable(dict(outputs))
    if not isinstance(outputs, dict):
        return _shown(outputs), [f"the outputs were replaced by their repr: {why}"]
    kept: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in outputs.items():
        name = clean(key if isinstance(key, str) else _shown(key))
        trouble = _unwritable({name: value})
        kept[name] = value if trouble is None else _shown(value)
        if trouble is not None:
            notes.append(f"the output {name!r} was replaced by its repr: {trouble}")
    return kept, notes


def clean(text: str) -> str:
    """Return text that can be written as UTF-8: what cannot (a lone surrogate) is shown by its number."""
    return text.encode("utf-8", "backslashreplace").decode()


def _unwritable(value: Any) -> str | None:
    try:
        # The event and its output are two levels around the outputs.
        check_depth(b"[" * _AROUND + encode(value) + b"]" * _AROUND, "it")
    except RunstoreError as error:
        return error.detail
    except Exception as error:  # noqa: BLE001 - whatever an object raises when it is looked at, the work succeeded
        return f"{type(error).__name__} when it was written"
    return None


_AROUND: Final = 2
assert _AROUND < MAX_JSON_DEPTH


def _shown(value: Any) -> str:
    try:
        return clean(repr(value))[:_MAX_REPR]
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__name__}>"


def _joined(parts: list[str]) -> str:
    text = ""
    for part in parts:
        text += ("\n" if text and part and not text.endswith("\n") else "") + part
    return text
