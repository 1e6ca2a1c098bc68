"""A board that the processes of one service share: each writes its own numbers there, and any of them can read all.

Prometheus reaches one of several processes that listen on one port, and must get the numbers of all, or it would see
another process's counters each time. The board is memory that they inherit; nothing of it is left when they end.
"""

import time
from mmap import mmap
from struct import Struct
from typing import Final
from zlib import crc32

SEAT_BYTES: Final = 128 * 1024
_HEAD: Final = Struct("=II")
_TRIES: Final = 50
_PAUSE_S: Final = 0.001


class Unreadable(Exception):
    """What a process wrote cannot be read: it was stopped while it wrote, or has written nothing yet."""


class Board:
    """So many seats. Made before the processes are forked."""

    def __init__(self, seats: int) -> None:
        self.seats = seats
        self._map = mmap(-1, seats * SEAT_BYTES)

    def write(self, seat: int, data: bytes) -> None:
        """Write what a process has to tell, in place of what it told before.

        Raises: ValueError where that is more than there is room for.
        """
        if len(data) > SEAT_BYTES - _HEAD.size:
            raise ValueError(f"{len(data)} bytes of numbers do not fit a seat of {SEAT_BYTES}")
        at = seat * SEAT_BYTES
        self._map[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        self._map[at : at + _HEAD.size] = _HEAD.pack(len(data), crc32(data))

    def read(self, seat: int) -> bytes:
        """Read what a process told last. Raises: Unreadable."""
        at = seat * SEAT_BYTES
        for _ in range(_TRIES):
            size, sum_ = _HEAD.unpack(self._map[at : at + _HEAD.size])
            if 0 < size <= SEAT_BYTES - _HEAD.size:
                data = self._map[at + _HEAD.size : at + _HEAD.size + size]
                if crc32(data) == sum_:
                    return data
            time.sleep(_PAUSE_S)  # it is being written, which takes microseconds
        raise Unreadable(f"process {seat} has not told its numbers")
