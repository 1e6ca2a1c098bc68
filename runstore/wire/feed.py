"""Feed entries: one for each commit, with its number, its nonce and all its changes; the commit's own receipt."""

from typing import Final, NamedTuple

import msgspec

from runstore.core.run import HistoryItem, Run

INLINE_OUTPUT_BYTES: Final = 4096
"""Outputs up to this size travel in the feed, so that a gateway pushes them without a look-up."""


class FeedChange(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What one event did to one run.

    `run` is the run after it; `item` what history keeps (None for mere progress, or an ignored event over the limit);
    `output` the capped view where it is small enough to travel along. An ignored event has `item.ignored` set.
    """

    run: Run
    item: HistoryItem | None = None
    output: bytes | None = None
    is_transition: bool = True


class FeedEntry(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One commit: `n` is its number, `entry` the last event that was folded by it (ms, seq).

    `before` is the nonce of the commit that it follows, so that a reader knows by each entry that it follows what was
    read last (None: a mended partition begins anew with it). `is_marked`: it is told once the safe mark has passed it.
    """

    n: int
    nonce: bytes
    entry: tuple[int, int]
    changes: tuple[FeedChange, ...]
    before: bytes | None = None
    is_marked: bool = False


class Mark(NamedTuple):
    """How far a partition's commits are as durable as the setting says: the number and the nonce of the last such."""

    n: int
    nonce: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(FeedEntry)


def encode_feed(entry: FeedEntry) -> bytes:
    """Write a feed entry."""
    return _ENCODER.encode(entry)


def decode_feed(packed: bytes) -> FeedEntry:
    """Read a feed entry."""
    return _DECODER.decode(packed)
