"""The tree of errors, each named for its condition; HTTP statuses and close codes are mapped at the door only."""

from typing import ClassVar


class RunstoreError(Exception):
    """Root of every error that runstore raises on purpose.

    The message is one sentence that says what to mend. `code` is the stable word of the contract.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    @property
    def detail(self) -> str:
        """The sentence that was given when the error was raised."""
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(RunstoreError):
    """What the caller sent breaks a rule."""

    code = "invalid_request"


class InvalidRunId(RunstoreError):
    """What the caller typed is neither a run id nor a prefix of one."""

    code = "invalid_run_id"


class UnknownProject(RunstoreError):
    """No worker has ever registered the project."""

    code = "unknown_project"


class RunNotFound(RunstoreError):
    """No run matches, or none that the caller may read."""

    code = "run_not_found"


class AmbiguousRunId(RunstoreError):
    """A prefix matches more than one run that the caller may read."""

    code = "ambiguous_run_id"

    def __init__(self, detail: str, candidates: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.candidates = candidates


class OutputNotFound(RunstoreError):
    """The run left no output, or none by that name."""

    code = "output_not_found"


class IdempotencyConflict(RunstoreError):
    """The same key came with another body."""

    code = "idempotency_conflict"


class CursorLost(RunstoreError):
    """The store no longer has the place that a cursor names: it was rolled back or replaced."""

    code = "cursor_lost"


class Unauthorized(RunstoreError):
    """No valid credential came with the request."""

    code = "unauthorized"


class Forbidden(RunstoreError):
    """The credential is valid and does not allow this."""

    code = "forbidden"


class PayloadTooLarge(RunstoreError):
    """A body, event or output is over its limit."""

    code = "payload_too_large"


class NotAcceptable(RunstoreError):
    """None of the media types asked for can be given."""

    code = "not_acceptable"


class RateLimited(RunstoreError):
    """The caller asks too often, or holds too much open. Units: `retry_after_s` is when to ask again."""

    code = "rate_limited"
    retryable = True

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class StoreUnavailable(RunstoreError):
    """Redis cannot be reached, or the projector did not get there in time."""

    code = "store_unavailable"
    retryable = True
