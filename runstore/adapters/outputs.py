"""Outputs beside the log: the capped view as one key, the full payload in chunks where the view is not the whole.

A part is written only where it does not exist yet: whoever repeats a write that was committed meanwhile must not put an
expiry on it again.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from secrets import token_bytes
from typing import Final

import msgspec

from runstore.adapters.connection import StoreClient
from runstore.adapters.meta import Meta
from runstore.background import off_loop
from runstore.core.cap import CAP_BYTES, Output, cap
from runstore.core.errors import OutputNotFound
from runstore.core.event import MAX_OUTPUT_BYTES, OutputRef
from runstore.core.ids import RunId, to_bytes
from runstore.wire.event import encode_output
from runstore.wire.keys import PartitionKeys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES: Final = 1024 * 1024
ORPHAN_EXPIRY_S: Final = 7 * 24 * 3600
COMPRESS_FROM_BYTES: Final = 2048
TOKEN_BYTES: Final = 8
MAX_TOKEN_BYTES: Final = 32
MAX_CHUNKS: Final = MAX_OUTPUT_BYTES // CHUNK_BYTES + 1
_PLAIN: Final = b"\x00"
_ZSTD: Final = b"\x01"
_IN_THREAD_FROM_BYTES: Final = 128 * 1024
_OUTPUT: Final = msgspec.json.Decoder(Output)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """An output made ready to be written: its place, its view, and the whole where that is more."""

    ref: OutputRef
    view: bytes
    whole: bytes | None = None


class RedisOutputs:
    """Outputs in string keys."""

    def __init__(self, client: StoreClient, meta: Meta) -> None:
        self._client = client
        self._meta = meta

    async def write(self, run_id: RunId, output: bytes, *, token: bytes | None = None) -> OutputRef:
        """Write a whole output (compact JSON of the five fields) and its capped view, to expire unless committed."""
        parts = await prepare(output, token if token is not None else token_bytes(TOKEN_BYTES))
        await self.write_parts(run_id, parts)
        return parts.ref

    async def write_each(self, outputs: Sequence[tuple[RunId, bytes]]) -> list[OutputRef]:
        """Write several whole outputs as `write` does, those that are small in one round trip."""
        parts = [await prepare(output, token_bytes(TOKEN_BYTES)) for _, output in outputs]
        await self.write_many([(run_id, part) for (run_id, _), part in zip(outputs, parts, strict=True)])
        return [part.ref for part in parts]

    async def write_parts(self, run_id: RunId, parts: Parts) -> None:
        """Write what `prepare` made ready; a part that is there already stays as it is."""
        keys, packed_id, token = self._meta.keys_of(run_id), to_bytes(run_id), parts.ref.token
        for chunk in range(parts.ref.chunks):
            piece = (parts.whole or b"")[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
            await self._put(keys.output(packed_id, token, str(chunk)), piece)
        await self._put(keys.output(packed_id, token, "v"), parts.view)

    async def write_many(self, outputs: Sequence[tuple[RunId, Parts]]) -> None:
        """Write several outputs, those that are small in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        for run_id, parts in outputs:
            if is_small(parts):
                key = self._meta.keys_of(run_id).output(to_bytes(run_id), parts.ref.token, "v")
                pipe.execute_command("SET", key, pack(parts.view), "NX", "EX", ORPHAN_EXPIRY_S)
            else:
                await self.write_parts(run_id, parts)
        if len(pipe):
            await pipe.execute()

    async def _put(self, key: bytes, piece: bytes) -> None:
        packed = pack(piece) if len(piece) < _IN_THREAD_FROM_BYTES else await off_loop(pack, piece)
        await self._client.execute_command("SET", key, packed, "NX", "EX", ORPHAN_EXPIRY_S)

    async def view(self, run_id: RunId, ref: OutputRef) -> bytes | None:
        """Get the capped view, at most 1 MiB; None where it has expired."""
        packed = await self._client.execute_command(
            "GET", self._meta.keys_of(run_id).output(to_bytes(run_id), ref.token, "v")
        )
        return unpack(packed) if packed is not None else None

    async def read(self, run_id: RunId, ref: OutputRef, start: int, stop: int) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop` of the full payload, chunk by chunk.

        Raises: OutputNotFound where a chunk has expired.
        """
        keys, packed_id = self._meta.keys_of(run_id), to_bytes(run_id)
        start, stop = max(start, 0), min(stop, ref.output_bytes)
        while start < stop:
            chunk = start // CHUNK_BYTES if ref.chunks else 0
            packed = await self._client.execute_command(
                "GET", keys.output(packed_id, ref.token, str(chunk) if ref.chunks else "v")
            )
            piece = unpack(packed) if packed is not None else b""
            begin = chunk * CHUNK_BYTES
            wanted = piece[start - begin : stop - begin]
            if not wanted:
                raise OutputNotFound("the output of this run has expired")
            yield wanted
            start += len(wanted)


async def prepare(output: bytes, token: bytes) -> Parts:
    """Cut an output to its view and say where its parts will lie; nothing is written."""
    if len(output) <= CAP_BYTES:
        return Parts(ref=OutputRef(token=token, output_bytes=len(output), chunks=0), view=output)
    view = await off_loop(_cut, output)
    chunks = -(-len(output) // CHUNK_BYTES)
    ref = OutputRef(token=token, output_bytes=len(output), chunks=chunks, truncated=True)
    return Parts(ref=ref, view=view, whole=output)


def is_small(parts: Parts) -> bool:
    """Whether an output is one part, and so small that it may be packed and written along with others."""
    return parts.whole is None and len(parts.view) < _IN_THREAD_FROM_BYTES


def _cut(output: bytes) -> bytes:
    shown, _ = cap(_OUTPUT.decode(output))
    return encode_output(shown)


def pack(piece: bytes) -> bytes:
    """Compress a piece where that may pay; its first byte tells."""
    if len(piece) < COMPRESS_FROM_BYTES:
        return _PLAIN + piece
    small = zstd.compress(piece)
    return _ZSTD + small if len(small) < len(piece) else _PLAIN + piece


def unpack(packed: bytes) -> bytes:
    """Read what `pack` wrote."""
    return zstd.decompress(packed[1:]) if packed[:1] == _ZSTD else packed[1:]


def part_keys(keys: PartitionKeys, packed_id: bytes, ref: OutputRef) -> list[bytes]:
    """Name every key that holds a part of an output."""
    return [keys.output(packed_id, ref.token, part) for part in ("v", *(str(chunk) for chunk in range(ref.chunks)))]


def may_be_kept(ref: OutputRef) -> bool:
    """Whether a place told by a publisher can be one of ours."""
    return 0 < len(ref.token) <= MAX_TOKEN_BYTES and 0 <= ref.chunks <= MAX_CHUNKS and ref.output_bytes >= 0
