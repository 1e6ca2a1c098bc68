"""Logs as they come: server-sent events, resumed where a connection is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from runstore.client.backoff import pause_s
from runstore.client.http import Http
from runstore.client.sse import EVENT_STREAM, read_events
from runstore.core.errors import RunstoreError

_STREAMS: Final = frozenset({"stdout", "stderr"})
_QUIET_S: Final = 1.0
"""So long without a piece, and all that a running run has written so far has been told."""


class _Piece(msgspec.Struct, frozen=True):
    text: str


_PIECE: Final = msgspec.json.Decoder(_Piece)


async def read_logs(http: Http, path: str, *, follow: bool) -> AsyncIterator[tuple[str, str]]:
    """Read logs as pairs of stream and text, resuming where the connection is lost; else what there is so far.

    Raises: what a request raises; GatewayUnreachable where touch was lost for too long.
    """
    clock = asyncio.get_running_loop().time
    patience_s = http.config.give_up_s if follow else http.config.retry_for_s
    last_id, attempt, touched_at = "", 0, clock()
    while True:
        try:
            headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": last_id} if last_id else {})}
            async with http.stream(path, headers=headers) as response:
                async for event in read_events(response, None if follow else _QUIET_S):
                    last_id, attempt, touched_at = event.id or last_id, 0, clock()
                    if event.kind == "done":
                        return
                    if event.kind in _STREAMS and (text := _PIECE.decode(event.data).text):
                        yield event.kind, text
            if not follow:
                return
        except RunstoreError as error:
            if not error.retryable or clock() - touched_at > patience_s:
                raise
        await asyncio.sleep(pause_s(http.config, attempt))
        attempt += 1
