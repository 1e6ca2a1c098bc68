"""What the programs of this folder print, and what they read of the machine."""

from pathlib import Path

import msgspec


def show(figures: msgspec.Struct) -> None:
    """Print figures, one a line."""
    for name, value in msgspec.structs.asdict(figures).items():
        print(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")


def rss_mib(pid: int) -> int:
    """Return how much memory a process has."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024
