"""Cursors as clients see them: opaque text, safe in a URL, a header and an SSE event id."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from runstore.core.cursor import Cursor, Place
from runstore.core.errors import InvalidRequest

MAX_CURSOR_CHARACTERS: Final = 60_000
"""What a message can hold beside a subscription's other fields: the places of a thousand partitions."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[Place, ...])


def encode_cursor(cursor: Cursor) -> str:
    """Write a cursor."""
    return urlsafe_b64encode(_ENCODER.encode(cursor)).rstrip(b"=").decode()


def decode_cursor(text: str) -> Cursor:
    """Read a cursor that `encode_cursor` wrote.

    Raises: InvalidRequest where it is none.
    """
    try:
        if len(text) > MAX_CURSOR_CHARACTERS:
            raise ValueError
        packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        cursor = _DECODER.decode(packed)
    except (ValueError, msgspec.MsgspecError):
        raise InvalidRequest(f"{text[:40]!r} is no cursor: give one as it was received") from None
    if not cursor or len({place.partition for place in cursor}) != len(cursor):
        raise InvalidRequest(f"{text[:40]!r} is no cursor: give one as it was received")
    return cursor
