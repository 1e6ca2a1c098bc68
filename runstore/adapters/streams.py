"""Reads of many streams that wait for news: one read for all, or in a cluster one for each slot."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from runstore.adapters.cluster import slot_of_key
from runstore.adapters.connection import MAX_BLOCK_MS, StoreClient

_SLOT_BLOCK_MS: Final = 2_000
Rows = list[tuple[bytes, dict[bytes, bytes]]]
_Words = tuple[Any, ...]


class StreamReads:
    """Reads of one reader, who asks for one at a time.

    In a cluster a read cannot name streams of two slots, so there is one for each, and those without news go on waiting
    until the next call.
    """

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._waiting: dict[_Words, asyncio.Task[Any]] = {}

    async def read(
        self, streams: Mapping[bytes, bytes | str], *, count: int, block_ms: int
    ) -> list[tuple[bytes, Rows]]:
        """Read entries after the ids, waiting so long for one (0: not at all).

        Raises: StoreUnavailable.
        """
        block = ("BLOCK", min(block_ms, MAX_BLOCK_MS)) if block_ms > 0 else ()
        groups: defaultdict[int, dict[bytes, bytes | str]] = defaultdict(dict)
        if self._client.is_cluster:
            for key, after in streams.items():
                groups[slot_of_key(key)][key] = after
        if len(groups) <= 1:
            reply = await self._client.execute_command(
                "XREAD", "COUNT", count, *block, "STREAMS", *streams, *streams.values()
            )
            return stream_replies(reply)
        if not block:
            pipe = self._client.pipeline(transaction=False)
            for group in groups.values():
                pipe.execute_command("XREAD", "COUNT", count, "STREAMS", *group, *group.values())
            return [found for reply in await pipe.execute() for found in stream_replies(reply)]
        wanted = [
            ("XREAD", "COUNT", count, "BLOCK", _SLOT_BLOCK_MS, "STREAMS", *group, *group.values())
            for group in groups.values()
        ]
        return await self._wait(wanted, block_ms)

    async def _wait(self, wanted: list[_Words], block_ms: int) -> list[tuple[bytes, Rows]]:
        for words in self._waiting.keys() - set(wanted):
            self._waiting.pop(words).cancel()
        clock = asyncio.get_running_loop().time
        end_s = clock() + block_ms / 1000
        while True:
            for words in wanted:
                if words not in self._waiting:
                    self._waiting[words] = self._client.begin(self._client.execute_command(*words))
            await asyncio.wait(
                self._waiting.values(), timeout=max(0.0, end_s - clock()), return_when=asyncio.FIRST_COMPLETED
            )
            done = [words for words, task in self._waiting.items() if task.done()]
            replies = [self._waiting.pop(words) for words in done]
            failed = [reply for reply in replies if reply.cancelled() or reply.exception() is not None]
            found = [news for reply in replies if reply not in failed for news in stream_replies(reply.result())]
            if found:
                return found
            if failed:
                failed[0].result()
            if clock() >= end_s:
                return []


def stream_replies(reply: Any) -> list[tuple[bytes, Rows]]:
    """Bring what XREAD answered into one shape."""
    return [(key, rows) for key, rows in (reply.items() if isinstance(reply, dict) else reply or ())]
