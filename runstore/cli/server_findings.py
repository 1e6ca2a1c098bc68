"""What a doctor makes of a server: its version, role, memory, disk and clock, whatever it holds."""

from collections.abc import Callable
from typing import Final

from runstore.adapters.diagnosis import StoreSeen
from runstore.cli.finding import Finding, ill, size, well

OLDEST: Final = (7, 0)
CLOCKS_MS: Final = 2_000
FULL: Final = 0.85
FEW_DAYS: Final = 7.0
_A_DAY_S: Final = 86_400

_LUA: Final = "CVE-2025-49844 lets whoever may run scripts execute code on the server"
_UNBLOCKED: Final = "CVE-2026-23479 lets a client make the server use memory that it gave back"
HOLES: Final[dict[tuple[str, tuple[int, int]], tuple[int, str]]] = {
    ("Redis", (7, 2)): (11, _LUA),
    ("Redis", (7, 4)): (6, _LUA),
    ("Redis", (8, 0)): (4, _LUA),
    ("Redis", (8, 2)): (2, _LUA),
    ("Redis", (8, 6)): (3, _UNBLOCKED),
    ("Valkey", (7, 2)): (11, _LUA),
    ("Valkey", (8, 0)): (6, _LUA),
    ("Valkey", (8, 1)): (4, _LUA),
}
"""The release of each line in which a hole was mended that is as bad as this, and the hole."""

UNMENDED: Final = frozenset({("Redis", (7, 0))})
"""Lines in which no release of the project's own mends one of those; distributions mend some under the old number."""


def _version(seen: StoreSeen) -> Finding:
    shown = f"{seen.server} {seen.version}"
    digits = tuple(int(part) for part in seen.version.split(".")[:3] if part.isdigit())
    if not digits:
        return well("version", "the server does not say its version")
    if digits < OLDEST:
        return ill("version", f"{shown} is too old: run Redis 7.0 or later, or Valkey")
    if len(digits) < 3:
        return well("version", shown)
    line = seen.server, (digits[0], digits[1])
    mended, hole = HOLES.get(line, (0, ""))
    if digits[2] < mended:
        return ill("version", f"{shown} has a known hole: {hole}; run {digits[0]}.{digits[1]}.{mended} or later")
    if line in UNMENDED:
        return well(
            "version", f"{shown}, of a line that has ended: see that your distribution has mended CVE-2025-49844 in it"
        )
    return well("version", shown)


def _role(seen: StoreSeen) -> Finding:
    if seen.role in {None, "master"}:
        return well("role", "the server is a primary" if seen.role else "the server does not say its role")
    return ill("role", f"the server is a {seen.role}: give the address of the primary")


def _policy(seen: StoreSeen) -> Finding:
    if seen.policy in {None, "noeviction"}:
        return well("eviction", "nothing is evicted" if seen.policy else "the server does not say what it evicts")
    return ill(
        "eviction",
        f"maxmemory-policy is {seen.policy}, which throws runs away when memory is short: "
        "run CONFIG SET maxmemory-policy noeviction, and write it into the server's configuration",
    )


def _aof(seen: StoreSeen) -> Finding:
    if seen.write_failure:
        return ill("persistence", f"{seen.write_failure}: look at the server's log, and whether its disk is full")
    if seen.has_aof is None:
        return well("persistence", "the server does not say whether it keeps an append-only file")
    if not seen.has_aof:
        return ill(
            "persistence",
            "no append-only file is kept, so a crash loses runs: run CONFIG SET appendonly yes, "
            "and write it into the server's configuration",
        )
    return well("persistence", "an append-only file is kept")


def _memory(seen: StoreSeen) -> Finding:
    if seen.used_bytes is None:
        return well("memory", "the server does not say how much memory it uses")
    limit, whose = seen.limit_bytes, ""
    if not limit:
        limit, whose = seen.machine_bytes, ", the machine's, as no maxmemory is set,"
    if not limit:
        return well("memory", f"{size(seen.used_bytes)} in use, no limit is set")
    share = seen.used_bytes / limit
    shown = f"{size(seen.used_bytes)} of {size(limit)}{whose} are in use ({share:.0%})"
    if share >= FULL and seen.limit_bytes:
        return ill("memory", f"{shown}, and at the limit every write is refused: raise maxmemory")
    if share >= FULL:
        return ill("memory", f"{shown}: set maxmemory below what the machine can spare, or give it more")
    days = days_left(seen, limit)
    if days is None:
        return well("memory", shown)
    assert seen.growth is not None
    rate = f"at the rate of the last {_span(seen.growth.over_s)} ({seen.growth.runs_begun} runs)"
    if days < FEW_DAYS:
        return ill(
            "memory", f"{shown}, and {rate} it is full in {days:.1f} days: raise maxmemory, or keep runs shorter"
        )
    return well("memory", f"{shown}; {rate} that lasts {_many(days)}")


def days_left(seen: StoreSeen, limit_bytes: int) -> float | None:
    """Say in how many days memory is full if runs go on as lately (None: it cannot be said, or never).

    What a run takes is what the server holds, its log and feed included, by the runs that it holds.
    """
    growth, used = seen.growth, seen.used_bytes
    if growth is None or used is None or growth.sheds or not growth.runs_begun or not growth.runs_kept:
        return None
    grows_a_day = used / growth.runs_kept * growth.runs_begun / growth.over_s * _A_DAY_S
    return max(0.0, limit_bytes - used) / grows_a_day


def _span(seconds: float) -> str:
    return "day" if seconds >= _A_DAY_S else f"{seconds / 3600:.1f} hours"


def _many(days: float) -> str:
    return f"{days:.0f} days" if days < 1000 else "for years"


def _clock(seen: StoreSeen) -> Finding:
    apart = abs(seen.now_ms - seen.own_ms)
    if apart > CLOCKS_MS:
        which = "ahead of" if seen.now_ms > seen.own_ms else "behind"
        return ill(
            "clock", f"the server's clock is {apart / 1000:.1f} s {which} this machine's: let both follow one (NTP)"
        )
    return well("clock", f"the server's clock and this machine's are {apart} ms apart")


SERVER: Final[tuple[Callable[[StoreSeen], Finding], ...]] = (_version, _role, _policy, _aof, _memory, _clock)
