"""Errors of the client, and how an answer of the gateway becomes one of the tree."""

from typing import Any, Final

import msgspec

from runstore.core.errors import (
    AmbiguousRunId,
    CursorLost,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    InvalidRunId,
    NotAcceptable,
    OutputNotFound,
    PayloadTooLarge,
    RateLimited,
    RunNotFound,
    RunstoreError,
    StoreUnavailable,
    Unauthorized,
    UnknownProject,
)

_NO_TOUCH: Final = frozenset({502, 503, 504})
_TOLD: Final[tuple[type[RunstoreError], ...]] = (
    *(CursorLost, Forbidden, IdempotencyConflict, InvalidRequest, InvalidRunId, NotAcceptable, OutputNotFound),
    *(PayloadTooLarge, RateLimited, RunNotFound, StoreUnavailable, Unauthorized, UnknownProject),
)
_BY_CODE: Final = {error.code: error for error in _TOLD}


class GatewayUnreachable(StoreUnavailable):
    """The gateway cannot be reached, or touch with it was lost for too long. It says nothing about the run."""

    code = "gateway_unreachable"


class WaitTimeout(RunstoreError, TimeoutError):
    """The time given to a wait is over; the run has not ended, or nobody said so yet."""

    code = "wait_timeout"
    retryable = True


class UnexpectedAnswer(RunstoreError):
    """The answer is none that a gateway gives: another server, a proxy's page, or a fault."""

    code = "unexpected_answer"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457), as far as the client reads it."""

    code: str = ""
    detail: str = ""
    title: str = ""
    candidates: tuple[Any, ...] = ()


_PROBLEM: Final = msgspec.json.Decoder(Problem)


def read_problem(status: int, body: bytes, what: str) -> RunstoreError:
    """Make the error that an answer of 400 or above tells. `what` names the request."""
    try:
        problem = _PROBLEM.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = Problem()
    if problem.code:
        return error_of(problem)
    if status in _NO_TOUCH:
        return GatewayUnreachable(f"{what}: a proxy answered {status}, so the gateway is away")
    if status == 401:
        return Unauthorized(f"{what}: give a valid token (the answer was 401)")
    return UnexpectedAnswer(f"{what}: the answer was {status} without a problem document; is this a runstore gateway?")


def error_of(problem: Problem) -> RunstoreError:
    """Make the error that a code of the contract names."""
    detail = problem.detail or problem.title or problem.code
    if problem.code == AmbiguousRunId.code:
        return AmbiguousRunId(detail, tuple(_id_of(candidate) for candidate in problem.candidates))
    known = _BY_CODE.get(problem.code)
    return known(detail) if known is not None else UnexpectedAnswer(f"{problem.code}: {detail}")


def _id_of(candidate: Any) -> str:
    return str(candidate.get("run_id", candidate)) if isinstance(candidate, dict) else str(candidate)
