"""What an event that begins a tracked run, or lets go of it, asks to be done about the run's lease."""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from runstore.core.errors import StoreUnavailable
from runstore.core.event import Event, Hold
from runstore.core.ids import RunId
from runstore.core.status import TERMINAL

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

_LOG: Final = logging.getLogger("runstore.publish")
Holds = Mapping[RunId, tuple[Event, Hold]]


def holds_of(events: Iterable[Event]) -> Holds:
    """Return what is asked last of each run, where it is not about to end."""
    found: dict[RunId, tuple[Event, Hold]] = {}
    for event in events:
        if event.hold is not None:
            found[event.run_id] = event, event.hold
        elif event.status in TERMINAL:
            found.pop(event.run_id, None)
    return found


async def take(store: "RedisStore", holds: Holds) -> dict[RunId, StoreUnavailable]:
    """See to it that runs are held, by whomever, and return those for which that could not be done.

    Nobody loses a lease by this: whoever has one took it later than the event was told.

    Raises: StoreUnavailable.
    """
    from runstore.adapters.holding import Holding, RedisHolding, is_damaged

    asked: dict[tuple[str, int], list[Holding]] = {}
    for event, hold in holds.values():
        if hold.term_ms:
            holding = Holding(
                run_id=event.run_id,
                project_name=event.project_name or "",
                attempt=event.attempt or 1,
                token=hold.token,
                yields=True,
            )
            asked.setdefault((hold.worker, hold.term_ms), []).append(holding)
    failed: dict[RunId, StoreUnavailable] = {}
    for (worker, term_ms), holdings in asked.items():
        results = await RedisHolding(store).hold_each(holdings, worker=worker, lease_ms=term_ms)
        for holding, result in zip(holdings, results, strict=True):
            if not isinstance(result, StoreUnavailable):
                continue
            if is_damaged(result):
                _LOG.warning("run_not_held", extra={"run_id": holding.run_id, "reason": result.detail[:200]})
            else:
                failed[holding.run_id] = result
    return failed


async def let_go(store: "RedisStore", holds: Holds) -> None:
    """Give back the leases of runs that nobody holds for now. Raises: StoreUnavailable."""
    from runstore.adapters.holding import RedisHolding

    for run_id, (_, hold) in holds.items():
        if not hold.term_ms:
            await RedisHolding(store).drop(run_id, hold.token)
