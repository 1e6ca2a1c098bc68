"""Which partition a run lives in: `crc32` of its canonical id, modulo the number of partitions."""

from binascii import crc32
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from runstore.core.ids import RunId

DEFAULT_PARTITIONS = 16
_T = TypeVar("_T")


def partition_of(run_id: RunId, partitions: int) -> int:
    """Return the partition of a run, 0 to `partitions - 1`."""
    return crc32(run_id.encode("ascii")) % partitions


def by_partition(items: Iterable[_T], partitions: int, run_id_of: Callable[[_T], RunId]) -> dict[int, list[_T]]:
    """Group what is about runs by the partitions of these, in the order in which it came."""
    found: defaultdict[int, list[_T]] = defaultdict(list)
    for item in items:
        found[partition_of(run_id_of(item), partitions)].append(item)
    return dict(found)
