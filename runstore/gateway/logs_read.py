"""Logs as text: what a run left in its output, and pieces of bytes that come one by one."""

import asyncio
from codecs import IncrementalDecoder, getincrementaldecoder
from typing import Final

import msgspec

from runstore.core.cap import CAP_BYTES
from runstore.core.run import Run
from runstore.gateway.context import Services


class Left(msgspec.Struct, frozen=True):
    """The logs that a run left."""

    stdout: str = ""
    stderr: str = ""


_LEFT: Final = msgspec.json.Decoder(Left)
_UTF8: Final = getincrementaldecoder("utf-8")


async def read_left(services: Services, run: Run) -> Left | None:
    """Read the logs out of a run's full output; None where it left none.

    Raises: StoreUnavailable.
    """
    ref = run.output or run.late_output
    if ref is None:
        return None
    pieces = services.store.outputs.read(run.run_id, ref, 0, ref.output_bytes)
    if ref.output_bytes <= CAP_BYTES:
        return _LEFT.decode(b"".join([piece async for piece in pieces]))
    async with services.big_outputs:
        whole = b"".join([piece async for piece in pieces])
        return await asyncio.to_thread(_LEFT.decode, whole)


class Decoders:
    """One decoder a stream: a character may be cut between two pieces, and what is no UTF-8 is replaced."""

    def __init__(self) -> None:
        self._decoders: dict[str, IncrementalDecoder] = {}

    def decode(self, stream: str, data: bytes) -> str:
        """Return the text of the next piece of a stream."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = _UTF8("replace")
        return decoder.decode(data)

    def finish(self) -> str:
        """Return what is left of characters that were never completed."""
        return "".join(decoder.decode(b"", final=True) for decoder in self._decoders.values())
