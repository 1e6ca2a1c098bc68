"""Exit codes, and which one an error or a run's status means."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from runstore.core.errors import RateLimited, RunstoreError, StoreUnavailable
from runstore.core.status import Status


class Exit(IntEnum):
    """The exit codes of the contract. `INTERRUPTED` is what a shell expects after Ctrl-C.

    `UNWRITABLE`, where standard output takes no more (a full disk), is sysexits' EX_IOERR and says nothing of a run.
    """

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    TIMED_OUT = 3
    CANCELLED = 4
    UNREACHABLE = 5
    UNWRITABLE = 74
    INTERRUPTED = 130


class Trouble(RunstoreError):
    """A command cannot do what was asked; the message says why, `exit` is its code."""

    def __init__(self, detail: str, code: Exit = Exit.USAGE) -> None:
        super().__init__(detail)
        self.exit = code


_BY_STATUS: Final = {
    Status.FAILED: Exit.FAILED,
    Status.TIMED_OUT: Exit.TIMED_OUT,
    Status.CANCELLED: Exit.CANCELLED,
}
"""From the worst on; a run that has not ended, or in success, is no reason for another code than 0."""


def of_statuses(statuses: Iterable[Status]) -> Exit:
    """Return the code of the worst status."""
    seen = set(statuses)
    return next((code for status, code in _BY_STATUS.items() if status in seen), Exit.SUCCESS)


def of_error(error: RunstoreError) -> Exit:
    """Return the code of an error: unreachable for what a later try may mend, else usage."""
    if isinstance(error, Trouble):
        return error.exit
    if error.code == "service_ended":
        return Exit.FAILED
    if isinstance(error, StoreUnavailable | RateLimited) or error.code == "unexpected_answer":
        return Exit.UNREACHABLE
    return Exit.USAGE
