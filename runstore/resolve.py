"""The one place that resolves what a caller typed into a run, for every interface.

A full id is the run itself, if the caller may see it. Anything shorter is a prefix, looked for only among what the
caller may see: a run out of reach is no run, and never makes a prefix ambiguous.
"""

from typing import Final

from runstore.core.errors import AmbiguousRunId, RunNotFound
from runstore.core.ids import RunId, parse_prefix
from runstore.core.principal import Principal
from runstore.lookup import Lookup
from runstore.ports import Runs
from runstore.wire.record import Record

MAX_CANDIDATES: Final = 10
_DIGITS: Final = 32


class Resolver:
    """Resolve names of runs."""

    def __init__(self, runs: Runs, lookup: Lookup) -> None:
        self._runs = runs
        self._lookup = lookup

    async def load(self, principal: Principal, text: str) -> Record:
        """Load the run that a caller named by its id or a prefix of it.

        Raises: InvalidRunId, RunNotFound, AmbiguousRunId (with candidates), StoreUnavailable.
        """
        digits = parse_prefix(text)
        run_id = _whole(digits) if len(digits) == _DIGITS else await self._find(principal, digits)
        record = await self._lookup.record_for(principal, run_id)
        if record is None:
            raise not_found(text)
        return record

    async def resolve(self, principal: Principal, text: str) -> RunId:
        """Return the id of the run that a caller named.

        Raises: as `load`.
        """
        return (await self.load(principal, text)).run.run_id

    async def _find(self, principal: Principal, digits: str) -> RunId:
        if principal.run_id is not None:
            if principal.run_id.replace("-", "").startswith(digits):
                return principal.run_id
            raise not_found(digits)
        if principal.projects is not None and not principal.projects:
            raise not_found(digits)
        found = await self._runs.find(digits, principal.projects, MAX_CANDIDATES + 1)
        if not found:
            raise not_found(digits)
        if len(found) > 1:
            raise AmbiguousRunId(
                f"{digits!r} begins more than one run id: give more of its digits", tuple(found[:MAX_CANDIDATES])
            )
        return found[0]


def not_found(text: str) -> RunNotFound:
    """Say that there is no such run, in the same words whether it is out of reach or does not exist."""
    return RunNotFound(f"no run matches {text[:60]!r}")


def _whole(digits: str) -> RunId:
    return RunId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
