"""What a doctor makes of a store that was looked at: findings, each with a sentence that says what to do."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from runstore.adapters.diagnosis import COUNTED, PartitionSeen, StoreSeen
from runstore.adapters.setback import FUTURE_MS
from runstore.publish.spools import Waiting

OLDEST: Final = (7, 0)
LAG_MS: Final = 10_000
OVERDUE_MS: Final = 60_000
CLOCKS_MS: Final = 2_000
RECENT_MS: Final = 24 * 3_600_000
FULL: Final = 0.85
_SHOWN: Final = 8


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    is_well: bool
    sentence: str


def judge(seen: StoreSeen, spools: Sequence[Waiting] = (), *, durability: str = "acknowledged") -> list[Finding]:
    """Say of each thing whether it is well, and what to do where it is not."""
    if durability == "fsynced":
        early = [each for each in (seen, *(other for _, other in seen.others)) if each.fsync not in {None, "always"}]
        return [*judge(seen, spools), *([_ill("durability", _EARLY.format(early[0].fsync))] if early else [])]
    found = [*(rule(seen) for rule in _SERVER), _store(seen)]
    for address, other in seen.others:
        ill = [finding for rule in _SERVER if not (finding := rule(other)).is_well]
        found += [msgspec.structs.replace(finding, sentence=f"{address}: {finding.sentence}") for finding in ill]
        found += [] if ill else [_well("primary", f"{address} is well")]
    if seen.partitions:
        found += [rule(seen) for rule in _STORE]
    return [*found, judge_spools(spools)]


def judge_spools(spools: Sequence[Waiting]) -> Finding:
    """Say what becomes of the events that wait on this machine's disk."""
    total = sum(each.events for each in spools)
    left = [each for each in spools if not each.held]
    if not left:
        return _well("spool", f"{total} events wait on this machine to be sent" if total else "no event waits")
    events, size = sum(each.events for each in left), sum(each.bytes for each in left)
    stores = ", ".join(sorted({each.label for each in left}))
    return _ill(
        "spool",
        f"{events} event{'s' if events > 1 else ''} ({_size(size)}) for {stores} wait on this machine, left by ended "
        f"processes in {left[0].path}: the next publisher to that store sends them, or `runstore doctor --mend`",
    )


def _version(seen: StoreSeen) -> Finding:
    shown = f"{seen.server} {seen.version}"
    digits = tuple(int(part) for part in seen.version.split(".")[:2] if part.isdigit())
    if not digits:
        return _well("version", "the server does not say its version")
    if digits < OLDEST:
        return _ill("version", f"{shown} is too old: run Redis 7.0 or later, or Valkey")
    return _well("version", f"{shown}")


def _role(seen: StoreSeen) -> Finding:
    if seen.role in {None, "master"}:
        return _well("role", "the server is a primary" if seen.role else "the server does not say its role")
    return _ill("role", f"the server is a {seen.role}: give the address of the primary")


def _policy(seen: StoreSeen) -> Finding:
    if seen.policy in {None, "noeviction"}:
        return _well("eviction", "nothing is evicted" if seen.policy else "the server does not say what it evicts")
    return _ill(
        "eviction",
        f"maxmemory-policy is {seen.policy}, which throws runs away when memory is short: "
        "run CONFIG SET maxmemory-policy noeviction, and write it into the server's configuration",
    )


def _aof(seen: StoreSeen) -> Finding:
    if seen.write_failure:
        return _ill("persistence", f"{seen.write_failure}: look at the server's log, and whether its disk is full")
    if seen.has_aof is None:
        return _well("persistence", "the server does not say whether it keeps an append-only file")
    if not seen.has_aof:
        return _ill(
            "persistence",
            "no append-only file is kept, so a crash loses runs: run CONFIG SET appendonly yes, "
            "and write it into the server's configuration",
        )
    return _well("persistence", "an append-only file is kept")


def _memory(seen: StoreSeen) -> Finding:
    if seen.used_bytes is None:
        return _well("memory", "the server does not say how much memory it uses")
    if not seen.limit_bytes:
        return _well("memory", f"{_size(seen.used_bytes)} in use, no limit is set")
    share = seen.used_bytes / seen.limit_bytes
    shown = f"{_size(seen.used_bytes)} of {_size(seen.limit_bytes)} are in use ({share:.0%})"
    if share >= FULL:
        return _ill("memory", f"{shown}, and at the limit every write is refused: raise maxmemory")
    return _well("memory", shown)


def _clock(seen: StoreSeen) -> Finding:
    apart = abs(seen.now_ms - seen.own_ms)
    if apart > CLOCKS_MS:
        which = "ahead of" if seen.now_ms > seen.own_ms else "behind"
        return _ill(
            "clock", f"the server's clock is {apart / 1000:.1f} s {which} this machine's: let both follow one (NTP)"
        )
    return _well("clock", f"the server's clock and this machine's are {apart} ms apart")


def _store(seen: StoreSeen) -> Finding:
    if seen.stored_partitions is None:
        return _ill("store", "there is no store in this Redis yet: start `runstore projector`, which makes one")
    if not seen.partitions:
        return _ill("store", f"runstore:meta says {seen.stored_partitions[:40]!r} partitions, which cannot be: mend it")
    return _well("store", f"a store of {len(seen.partitions)} partitions")


def _partitions(seen: StoreSeen) -> Finding:
    torn = [part for part in seen.partitions if part.trouble]
    if torn:
        return _ill(
            "partitions", f"{_named(torn)} cannot be read ({torn[0].trouble}): see what else writes to keys of runstore"
        )
    return _well("partitions", "all can be read")


def _strays(seen: StoreSeen) -> Finding:
    if not seen.strays:
        return _well("publishers", "none writes to a partition that does not exist")
    numbers = ", ".join(map(str, seen.strays[:_SHOWN])) + (" …" if len(seen.strays) > _SHOWN else "")
    return _ill(
        "publishers",
        f"events lie in partitions that do not exist ({numbers}), where nobody reads them: let who published them "
        f"count the {len(seen.partitions)} partitions that runstore:meta names, and publish them again",
    )


def _projectors(seen: StoreSeen) -> Finding:
    if not seen.projectors:
        return _ill("projector", "no projector is at work, so no run changes: start `runstore projector`")
    return _well("projector", f"{seen.projectors} at work")


def _lag(seen: StoreSeen) -> Finding:
    late = [part for part in seen.partitions if _age(part.oldest_waiting_ms, seen) > LAG_MS]
    if not late:
        waiting = sum(part.behind for part in seen.partitions)
        return _well("lag", f"{waiting} events wait" if waiting else "no event waits")
    worst = max(late, key=lambda part: _age(part.oldest_waiting_ms, seen))
    many = f"{COUNTED} or more" if worst.behind >= COUNTED else str(worst.behind)
    return _ill(
        "lag",
        f"{_named(late)} lag behind; in {worst.partition} {many} events wait, the oldest for "
        f"{_age(worst.oldest_waiting_ms, seen) / 1000:.0f} s: read the projectors' logs, or start another",
    )


def _unsafe(seen: StoreSeen) -> Finding:
    late = [part for part in seen.partitions if _age(part.unsafe_ms, seen) > LAG_MS]
    if not late:
        return _well("safety", "all that is told is as durable as was asked for")
    return _ill(
        "safety",
        f"what happened last in {_named(late)} is told to nobody, for it is not on disk or on replicas as the setting "
        "durability asks: see whether the replicas are connected, and whether a projector is at work",
    )


def _dead_letters(seen: StoreSeen) -> Finding:
    letters = [(part, part.newest_dead) for part in seen.partitions if part.newest_dead is not None]
    if not letters:
        return _well("dead letters", "none")
    total = sum(part.dead for part in seen.partitions)
    part, newest = max(letters, key=lambda pair: pair[1].at_ms)
    sentence = f"{total} dead letter{'s' if total > 1 else ''}, the last in partition {part.partition}: {newest.reason}"
    if seen.now_ms - newest.at_ms > RECENT_MS:
        return _well("dead letters", f"{sentence} (over a day ago)")
    return _ill("dead letters", f"{sentence}; mend what published it, and read runstore:{{{part.partition}}}:dead")


def _leases(seen: StoreSeen) -> Finding:
    stale = [part for part in seen.partitions if _age(part.oldest_lease_ms, seen) > OVERDUE_MS]
    if stale:
        return _ill(
            "leases",
            f"{_named(stale)} hold leases that ended over a minute ago: `runstore projector` clears them",
        )
    late = [part for part in seen.partitions if _age(part.oldest_deadline_ms, seen) > OVERDUE_MS]
    if late:
        return _ill("leases", f"{_named(late)} hold runs past their deadline: `runstore projector` ends them")
    return _well("leases", "none is stale")


def _future(seen: StoreSeen) -> Finding:
    ahead = [part for part in seen.partitions if part.last_ms > seen.now_ms + FUTURE_MS]
    if not ahead:
        return _well("event ids", "all are of now or before")
    return _ill(
        "event ids",
        f"{_named(ahead)} hold an event id from the future ({ahead[0].last_ms} ms), so that new events get that time "
        "too, or none: run `runstore doctor --mend`, which puts such events in again as of now",
    )


_EARLY: Final = (
    "durability is fsynced and appendfsync is {}, with which some servers answer before their disk has it "
    "(redis/redis#13793; seen with Valkey 9.1): run CONFIG SET appendfsync always, and write it into the configuration"
)
_SERVER: Final[tuple[Callable[[StoreSeen], Finding], ...]] = (*(_version, _role, _policy, _aof, _memory, _clock),)
_STORE: Final[tuple[Callable[[StoreSeen], Finding], ...]] = (
    *(_partitions, _strays, _projectors, _lag, _unsafe, _dead_letters, _leases, _future),
)


def _well(name: str, sentence: str) -> Finding:
    return Finding(name=name, is_well=True, sentence=sentence)


def _ill(name: str, sentence: str) -> Finding:
    return Finding(name=name, is_well=False, sentence=sentence)


def _age(moment_ms: int | None, seen: StoreSeen) -> int:
    return 0 if moment_ms is None else seen.now_ms - moment_ms


def _named(parts: list[PartitionSeen]) -> str:
    numbers = [str(part.partition) for part in parts]
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"partition{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:_SHOWN])}{more}"


def _size(count: int) -> str:
    return next(_steps(float(count)))


def _steps(size: float) -> Iterator[str]:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            yield f"{size:.0f} {unit}"
        size /= 1024
    yield f"{size:.1f} TiB"
