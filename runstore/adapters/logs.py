"""stdout and stderr of runs as they come: one bounded stream a run, gone some time after the end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from runstore.adapters.connection import MAX_BLOCK_MS
from runstore.adapters.streams import stream_replies
from runstore.core.ids import RunId, to_bytes
from runstore.ports import LogChunk

if TYPE_CHECKING:
    from runstore.adapters.store import RedisStore

PIECE_BYTES: Final = 16 * 1024
MOST_PIECES: Final = 256
_READ_PIECES: Final = 64
_QUIET_S: Final = 7 * 24 * 3600
_ENDED_S: Final = 24 * 3600
_CODES: Final = {"stdout": b"o", "stderr": b"e"}
_STREAMS: Final = {code: stream for stream, code in _CODES.items()}


class RedisRunLogs:
    """The output streams of runs over Redis."""

    def __init__(self, store: "RedisStore") -> None:
        self._client = store.client
        self._blocking = store.blocking
        self._meta = store.meta

    async def append_logs(self, run_id: RunId, chunks: Sequence[tuple[str, bytes]]) -> None:
        """Append pieces of `stdout` or `stderr`; longer ones than 16 KiB are cut into several, empty ones left out.

        Raises: StoreUnavailable; some may then be there all the same.
        """
        key = self._meta.keys_of(run_id).logs(to_bytes(run_id))
        pipe = self._client.pipeline(transaction=False)
        for stream, data in chunks:
            for begin in range(0, len(data), PIECE_BYTES):
                piece = data[begin : begin + PIECE_BYTES]
                pipe.execute_command("XADD", key, "MAXLEN", "~", MOST_PIECES, "*", "s", _CODES[stream], "d", piece)
        if len(pipe):
            pipe.execute_command("EXPIRE", key, _QUIET_S)
            await pipe.execute()

    async def end_logs(self, run_id: RunId) -> None:
        """Let the logs of a run that has ended go after a day. Raises: StoreUnavailable."""
        key = self._meta.keys_of(run_id).logs(to_bytes(run_id))
        await self._client.execute_command("EXPIRE", key, _ENDED_S)

    async def read_logs(self, run_id: RunId, after: str, block_ms: int) -> list[LogChunk]:
        """Read pieces after a place (`0` is the beginning), waiting up to `block_ms` (0: not at all) for one.

        Raises: StoreUnavailable.
        """
        key = self._meta.keys_of(run_id).logs(to_bytes(run_id))
        block = ("BLOCK", min(block_ms, MAX_BLOCK_MS)) if block_ms > 0 else ()
        client = self._blocking if block else self._client
        reply = await client.execute_command("XREAD", "COUNT", _READ_PIECES, *block, "STREAMS", key, after)
        return [_chunk(row) for _, rows in stream_replies(reply) for row in rows]


def _chunk(row: tuple[bytes, dict[bytes, Any]]) -> LogChunk:
    entry, fields = row
    stream = _STREAMS.get(fields.get(b"s", b""), "stdout")
    return LogChunk(after=entry.decode(), stream=stream, data=fields.get(b"d", b""))
