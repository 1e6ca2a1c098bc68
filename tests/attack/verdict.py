"""What each process may have grown by, and whether it did."""

from dataclasses import dataclass

from tests.attack.attack import Tally
from tests.attack.watched import Reading

MIB = 1024 * 1024


@dataclass(frozen=True)
class Bound:
    """How much memory a process may have gained over an attack: a sum once, and so much for each input."""

    rss_bytes: int
    bytes_per_input: float = 0.0
    times_sent: float = 0.0
    fds: int | None = None

    def allows(self, tally: Tally) -> int:
        """Return the bytes it may have gained."""
        return round(self.rss_bytes + self.bytes_per_input * tally.inputs + self.times_sent * tally.sent_bytes)


BOUNDS = {
    # The server keeps what it is sent: events, runs, dead letters. Nobody else keeps anything of an input.
    "server": Bound(64 * MIB, bytes_per_input=4096, times_sent=3, fds=400),
    "projector": Bound(48 * MIB, bytes_per_input=64, fds=32),
    "gateway": Bound(48 * MIB, bytes_per_input=64, fds=48),
    "worker": Bound(96 * MIB, fds=48),
}
"""The room for what an allocator keeps and caches fill, and 64 bytes an input: a leak of anything is more than that. So
with files: each service may keep the 32 connections of its pool to the server."""


@dataclass(frozen=True)
class Change:
    """One process, before an attack and after it."""

    name: str
    before: Reading
    after: Reading

    def is_settled(self) -> bool:
        """Whether it holds no more files and children than it may; these come down when what was begun has ended."""
        bound = BOUNDS[self.name].fds
        held, had = self.after.fds, self.before.fds
        files = bound is None or held is None or had is None or held <= had + bound
        return files and self.after.children <= self.before.children

    def failures(self, tally: Tally) -> list[str]:
        """Say what grew past its bound."""
        found = []
        gained, allowed = self.after.rss_bytes - self.before.rss_bytes, BOUNDS[self.name].allows(tally)
        allowed += tally.held_bytes if self.name == "gateway" else 0
        if gained > allowed:
            found.append(f"the {self.name} gained {_mib(gained)} of memory, over the bound of {_mib(allowed)}")
        if not self.is_settled():
            found.append(
                f"the {self.name} holds {self.after.fds} files and {self.after.children} children, "
                f"after {self.before.fds} and {self.before.children}"
            )
        return found

    def __str__(self) -> str:
        files = "" if self.after.fds is None else f", {self.before.fds} → {self.after.fds} fds"
        return f"{self.name} {_mib(self.before.rss_bytes)} → {_mib(self.after.rss_bytes)}{files}"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
