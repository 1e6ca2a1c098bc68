"""What a doctor makes of a store that was looked at: findings, each with a sentence that says what to do."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from runstore.adapters.diagnosis import COUNTED, PartitionSeen, StoreSeen
from runstore.adapters.setback import FUTURE_MS
from runstore.cli.finding import Finding, ill, size, well
from runstore.cli.server_findings import SERVER
from runstore.publish.spools import Waiting

LAG_MS: Final = 10_000
OVERDUE_MS: Final = 60_000
RECENT_MS: Final = 24 * 3_600_000
_SHOWN: Final = 8


def judge(seen: StoreSeen, spools: Sequence[Waiting] = (), *, durability: str = "acknowledged") -> list[Finding]:
    """Say of each thing whether it is well, and what to do where it is not."""
    if durability == "fsynced":
        early = [each for each in (seen, *(other for _, other in seen.others)) if each.fsync not in {None, "always"}]
        return [*judge(seen, spools), *([ill("durability", _EARLY.format(early[0].fsync))] if early else [])]
    found = [*(rule(seen) for rule in SERVER), _store(seen)]
    for address, other in seen.others:
        unwell = [finding for rule in SERVER if not (finding := rule(other)).is_well]
        found += [msgspec.structs.replace(finding, sentence=f"{address}: {finding.sentence}") for finding in unwell]
        found += [] if unwell else [well("primary", f"{address} is well")]
    if seen.partitions:
        found += [rule(seen) for rule in _STORE]
    return [*found, judge_spools(spools)]


def judge_spools(spools: Sequence[Waiting]) -> Finding:
    """Say what becomes of the events that wait on this machine's disk."""
    total = sum(each.events for each in spools)
    left = [each for each in spools if not each.held]
    if not left:
        return well("spool", f"{total} events wait on this machine to be sent" if total else "no event waits")
    events, total_bytes = sum(each.events for each in left), sum(each.bytes for each in left)
    stores = ", ".join(sorted({each.label for each in left}))
    return ill(
        "spool",
        f"{events} event{'s' if events > 1 else ''} ({size(total_bytes)}) for {stores} wait on this machine, left by "
        f"ended processes in {left[0].path}: the next publisher to that store sends them, or `runstore doctor --mend`",
    )


def _store(seen: StoreSeen) -> Finding:
    if seen.stored_partitions is None:
        return ill("store", "there is no store in this Redis yet: start `runstore projector`, which makes one")
    if not seen.partitions:
        return ill("store", f"runstore:meta says {seen.stored_partitions[:40]!r} partitions, which cannot be: mend it")
    return well("store", f"a store of {len(seen.partitions)} partitions")


def _partitions(seen: StoreSeen) -> Finding:
    torn = [part for part in seen.partitions if part.trouble]
    if torn:
        return ill(
            "partitions", f"{_named(torn)} cannot be read ({torn[0].trouble}): see what else writes to keys of runstore"
        )
    return well("partitions", "all can be read")


def _strays(seen: StoreSeen) -> Finding:
    if not seen.strays:
        return well("publishers", "none writes to a partition that does not exist")
    numbers = ", ".join(map(str, seen.strays[:_SHOWN])) + (" …" if len(seen.strays) > _SHOWN else "")
    return ill(
        "publishers",
        f"events lie in partitions that do not exist ({numbers}), where nobody reads them: let who published them "
        f"count the {len(seen.partitions)} partitions that runstore:meta names, and publish them again",
    )


def _projectors(seen: StoreSeen) -> Finding:
    if not seen.projectors:
        return ill("projector", "no projector is at work, so no run changes: start `runstore projector`")
    return well("projector", f"{seen.projectors} at work")


def _lag(seen: StoreSeen) -> Finding:
    late = [part for part in seen.partitions if _age(part.oldest_waiting_ms, seen) > LAG_MS]
    if not late:
        waiting = sum(part.behind for part in seen.partitions)
        return well("lag", f"{waiting} events wait" if waiting else "no event waits")
    worst = max(late, key=lambda part: _age(part.oldest_waiting_ms, seen))
    is_all = worst.behind_is_all and worst.behind < COUNTED
    many = str(worst.behind) if is_all else f"{worst.behind} or more"
    return ill(
        "lag",
        f"{_named(late)} lag behind; in {worst.partition} {many} events wait, the oldest for "
        f"{_age(worst.oldest_waiting_ms, seen) / 1000:.0f} s: read the projectors' logs, or start another",
    )


def _unsafe(seen: StoreSeen) -> Finding:
    late = [part for part in seen.partitions if _age(part.unsafe_ms, seen) > LAG_MS]
    if not late:
        return well("safety", "all that is told is as durable as was asked for")
    return ill(
        "safety",
        f"what happened last in {_named(late)} is told to nobody, for it is not on disk or on replicas as the setting "
        "durability asks: see whether the replicas are connected, and whether a projector is at work",
    )


def _dead_letters(seen: StoreSeen) -> Finding:
    letters = [(part, part.newest_dead) for part in seen.partitions if part.newest_dead is not None]
    if not letters:
        return well("dead letters", "none")
    total = sum(part.dead for part in seen.partitions)
    part, newest = max(letters, key=lambda pair: pair[1].at_ms)
    sentence = f"{total} dead letter{'s' if total > 1 else ''}, the last in partition {part.partition}: {newest.reason}"
    if seen.now_ms - newest.at_ms > RECENT_MS:
        return well("dead letters", f"{sentence} (over a day ago)")
    return ill("dead letters", f"{sentence}; mend what published it, and read runstore:{{{part.partition}}}:dead")


def _leases(seen: StoreSeen) -> Finding:
    stale = [part for part in seen.partitions if _age(part.oldest_lease_ms, seen) > OVERDUE_MS]
    if stale:
        return ill(
            "leases",
            f"{_named(stale)} hold leases that ended over a minute ago: `runstore projector` clears them",
        )
    late = [part for part in seen.partitions if _age(part.oldest_deadline_ms, seen) > OVERDUE_MS]
    if late:
        return ill("leases", f"{_named(late)} hold runs past their deadline: `runstore projector` ends them")
    return well("leases", "none is stale")


def _future(seen: StoreSeen) -> Finding:
    ahead = [part for part in seen.partitions if part.last_ms > seen.now_ms + FUTURE_MS]
    if not ahead:
        return well("event ids", "all are of now or before")
    return ill(
        "event ids",
        f"{_named(ahead)} hold an event id from the future ({ahead[0].last_ms} ms), so that new events get that time "
        "too, or none: run `runstore doctor --mend`, which puts such events in again as of now",
    )


_EARLY: Final = (
    "durability is fsynced and appendfsync is {}, with which some servers answer before their disk has it "
    "(redis/redis#13793; seen with Valkey 9.1): run CONFIG SET appendfsync always, and write it into the configuration"
)
_STORE: Final[tuple[Callable[[StoreSeen], Finding], ...]] = (
    *(_partitions, _strays, _projectors, _lag, _unsafe, _dead_letters, _leases, _future),
)


def _age(moment_ms: int | None, seen: StoreSeen) -> int:
    return 0 if moment_ms is None else seen.now_ms - moment_ms


def _named(parts: list[PartitionSeen]) -> str:
    numbers = [str(part.partition) for part in parts]
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"partition{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:_SHOWN])}{more}"
