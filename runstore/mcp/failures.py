"""What went wrong, as an agent is told it: the stable code, the sentence, and what to do next."""

from collections.abc import Mapping
from typing import Final

import msgspec

from runstore.core.errors import AmbiguousRunId, RunstoreError


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool could not do it. `candidates` are the full ids that an ambiguous prefix begins."""

    error: str
    message: str
    hint: str
    candidates: tuple[str, ...] = ()


INTERNAL: Final = Failure(
    error="internal_error",
    message="something went wrong here; it was logged",
    hint="Try once more; if it happens again, tell the user.",
)
_TELL: Final = "Tell the user; another call will not help."
_AGAIN: Final = "Wait a few seconds and call again with the same arguments."
_HINTS: Final[Mapping[str, str]] = {
    "invalid_request": "Mend the argument that the message names and call again.",
    "invalid_run_id": "Give a run id or at least 4 of its first hex digits; list_runs shows ids.",
    "unknown_project": "Check the spelling: list_runs shows names of projects. Else a worker must serve it first.",
    "run_not_found": "Check the id, or call list_runs to find the run. It may also be out of this token's reach.",
    "ambiguous_run_id": "Call again with one of the candidates.",
    "idempotency_conflict": "Use a new idempotency_key (or run_id) for another request.",
    "output_not_found": "Call get_run: its status tells whether the run has ended, its outputs which names there are.",
    "payload_too_large": "Ask for less, or give the user the address in the message.",
    "unauthorized": f"The token is not valid, or no longer. {_TELL}",
    "forbidden": f"The token does not allow this. {_TELL}",
    "rate_limited": _AGAIN,
    "store_unavailable": f"{_AGAIN} With an idempotency_key nothing is run twice.",
    "gateway_unreachable": f"{_AGAIN} If it stays so, tell the user that the gateway is away.",
    "unexpected_answer": "RUNSTORE_URL may not be a runstore gateway's address. Tell the user.",
}
"""By code. Whoever reads them has these tools and nothing else."""


def failure_of(error: RunstoreError) -> Failure:
    """Tell an error of the tree."""
    return Failure(
        error=error.code,
        message=error.detail.encode("utf-8", "backslashreplace").decode(),
        hint=_HINTS.get(error.code, _AGAIN if error.retryable else _TELL),
        candidates=error.candidates if isinstance(error, AmbiguousRunId) else (),
    )
