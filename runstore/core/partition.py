"""Which partition a run lives in: `crc32` of its canonical id, modulo the number of partitions."""

from binascii import crc32

from runstore.core.ids import RunId

DEFAULT_PARTITIONS = 16


def partition_of(run_id: RunId, partitions: int) -> int:
    """Return the partition of a run, 0 to `partitions - 1`."""
    return crc32(run_id.encode("ascii")) % partitions
