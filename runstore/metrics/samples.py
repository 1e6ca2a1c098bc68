"""Samples: what one process has counted, and the counts of several processes put together."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from runstore.core.tally import Tally
from runstore.metrics.table import BY_NAME, Merge

Key = tuple[str, tuple[str, ...]]
Snapshot = dict[Key, "float | Tally"]


class Sample(NamedTuple):
    """One number of a family; `labels` are in the order of the table."""

    name: str
    value: "float | Tally"
    labels: tuple[str, ...] = ()


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: tuple[str, ...]
    value: float = 0.0
    counts: tuple[int, ...] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[_Packed])


def put_together(samples: Iterable[Sample]) -> Snapshot:
    """Make one number of all that are told of the same thing, as the table says.

    Raises: KeyError for a family that the table does not have.
    """
    found: Snapshot = {}
    for name, value, labels in samples:
        key = name, labels
        before = found.get(key)
        found[key] = value if before is None else _merge(BY_NAME[name].merge, before, value)
    return found


def _merge(how: Merge, one: "float | Tally", other: "float | Tally") -> "float | Tally":
    if isinstance(one, Tally) or isinstance(other, Tally):
        assert isinstance(one, Tally)
        assert isinstance(other, Tally)
        return one.plus(other)
    match how:
        case "sum":
            return one + other
        case "max":
            return max(one, other)
        case "min":
            return min(one, other)


def pack(samples: Iterable[Sample]) -> bytes:
    """Write samples for another process."""
    return _ENCODER.encode(
        [
            _Packed(name, labels, value.total, tuple(value.counts))
            if isinstance(value, Tally)
            else _Packed(name, labels, float(value))
            for name, value, labels in samples
        ]
    )


def unpack(packed: bytes) -> list[Sample]:
    """Read what `pack` wrote. Raises: msgspec.MsgspecError."""
    return [
        Sample(each.name, Tally(BY_NAME[each.name].bounds, each.counts, each.value), each.labels)
        if each.counts
        else Sample(each.name, each.value, each.labels)
        for each in _DECODER.decode(packed)
    ]
