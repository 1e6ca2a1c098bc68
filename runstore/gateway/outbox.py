"""The outbox of one websocket: bounded in bytes, offered to and never waited for."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final

from runstore.feed import Body

Key = Hashable
_JOINED_BYTES: Final = 64 * 1024


class Message:
    """One message: ready bytes, or the head of a `run` message whose body may have to be fetched."""

    __slots__ = ("_body", "_frame", "_held_bytes", "_output", "_text", "is_push")

    def __init__(self, text: bytes, body: Body | None = None, *, output: bool = True) -> None:
        self._text = text
        self._body = body
        self._output = output
        self._frame: bytes | None = None
        self.is_push = body is not None
        self._held_bytes: int | None = None

    @property
    def held_bytes(self) -> int:
        """What an outbox holds by holding this; counted once, so that it takes out what it put in."""
        if self._held_bytes is None:
            body = self._body
            self._held_bytes = len(self._text) + (body.held_bytes(output=self._output) if body is not None else 0)
        return self._held_bytes

    async def encode(self) -> bytes:
        """Return the whole message.

        Raises: StoreUnavailable where an output cannot be fetched.
        """
        if self._body is None:
            return self._text
        return b"%b%b}" % (self._text, await self._body.load() if self._output else self._body.bare())

    def frame(self) -> bytes | None:
        """Return the message as a websocket's frame, made once for all sockets; None where it has to be fetched."""
        if self._frame is None:
            if self._body is None:
                text = self._text
            else:
                whole = self._body.whole() if self._output else self._body.bare()
                if whole is None:
                    return None
                text = b"%b%b}" % (self._text, whole)
            self._frame = text_frame(text)
        return self._frame


def joined_frames(messages: Sequence[Message], most_bytes: int) -> bytes | None:
    """Return the frames of messages in one piece; None where one has to be fetched, or they are too many bytes."""
    room = most_bytes if len(messages) == 1 else min(most_bytes, _JOINED_BYTES)
    frames: list[bytes] = []
    for message in messages:
        frame = message.frame()
        if frame is None:
            return None
        room -= len(frame)
        if room < 0:
            return None
        frames.append(frame)
    return frames[0] if len(frames) == 1 else b"".join(frames)


def text_frame(text: bytes) -> bytes:
    """Put a server's text into one frame (RFC 6455, section 5.2)."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), text)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), text)


class Outbox:
    """Messages in order; a newer message takes the place of an unsent one with its key, at the end of the row."""

    __slots__ = ("_limit_bytes", "_next", "_waiting", "held_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: OrderedDict[Key, Message] | None = None  # most of the time there is nothing
        self._next = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting or ())

    def offer(self, message: Message, key: Key | None = None) -> bool:
        """Take a message, or refuse it where too much is waiting; one that is large alone is taken."""
        if self._waiting is None:
            self._waiting = OrderedDict()
        if key is None:
            self._next += 1
            key = self._next
        replaced = self._waiting.pop(key, None)
        if replaced is not None:
            self.held_bytes -= replaced.held_bytes
        if self._waiting and self.held_bytes + message.held_bytes > self._limit_bytes:
            return False
        self._waiting[key] = message
        self.held_bytes += message.held_bytes
        return True

    def take(self) -> Message | None:
        """Take out the oldest message."""
        if not self._waiting:
            return None
        _, message = self._waiting.popitem(last=False)
        self._waiting = self._waiting or None
        self.held_bytes -= message.held_bytes
        return message

    def clear(self) -> None:
        """Forget what is waiting."""
        self._waiting = None
        self.held_bytes = 0
